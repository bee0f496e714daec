"""Shares that change while they are read, and servers that go away, in virtual time."""
