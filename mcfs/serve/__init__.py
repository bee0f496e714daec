"""What to send next. Pure but for the index on disk."""
