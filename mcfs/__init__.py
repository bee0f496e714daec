"""mcfs: a file system that shows files shared over IPv6 multicast."""

__version__ = "0.1.0"
