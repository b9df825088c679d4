"""Decoding on a CPU: one compiled call a token and thread, limited by reading the weights."""
