"""A recorded day: its record, its report as a page, how it is scrubbed through, and how it is run again."""
