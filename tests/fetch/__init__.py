"""Tests of mcfs.fetch."""
