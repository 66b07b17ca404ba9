"""Package risk."""
