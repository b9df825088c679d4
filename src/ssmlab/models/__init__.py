"""Whole models and their configs."""
