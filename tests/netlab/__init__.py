"""Tests in network namespaces, through a snooping bridge and the kernel's FUSE."""
