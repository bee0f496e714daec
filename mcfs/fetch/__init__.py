"""What to ask for next, and what has arrived. Pure but for the cache on disk."""
