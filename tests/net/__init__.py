"""Tests of mcfs.net."""
