"""What both sides agree on: ids, addresses, datagrams, trees. Pure: bytes and `now` in, bytes and events out."""
