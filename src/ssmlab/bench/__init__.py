"""Benchmarks: each figure is a median beside a reference or a floor taken in the same process."""
