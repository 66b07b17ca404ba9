"""Prices and instruments from outside."""
