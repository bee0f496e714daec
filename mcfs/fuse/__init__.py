"""The only code that knows pyfuse3: inodes, errnos, operations."""
