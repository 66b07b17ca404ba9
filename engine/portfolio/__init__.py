"""Positions from fills, and what they are worth."""
