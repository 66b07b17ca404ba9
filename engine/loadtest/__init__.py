"""Measured runs against the simulated venue, beside the honest baselines."""
