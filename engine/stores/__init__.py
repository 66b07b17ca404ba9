"""Package stores."""
