"""Tests of mcfs.cli."""
