"""Package eligibility."""
