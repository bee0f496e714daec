"""Tests of mcfs.protocol."""
