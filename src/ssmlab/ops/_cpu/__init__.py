"""What CPU kernels share: how they are compiled and kept, threads, elementary functions.

Importing this package imports nothing of it.
"""
