"""A long run of everything at once: random reads with loss, eviction, new versions and restarts of the server."""
