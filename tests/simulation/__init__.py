"""Whole trading days of the real engine in virtual time, every fault at once, bit for bit the same from a seed."""
