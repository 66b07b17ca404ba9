"""Package intake."""
