"""Servers that have a valid key and mean harm: each sends its own objects through the real cores of a client."""
