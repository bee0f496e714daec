"""The tests mirror the rooms of mcfs/; tests/netlab runs over real namespaces, bridge and FUSE."""
