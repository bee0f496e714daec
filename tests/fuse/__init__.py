"""Tests of mcfs.fuse."""
