"""Tests of mcfs.serve."""
