"""Benchmarks: mcfs beside other tools on the same data, and measures of mcfs alone. `script/bench` starts them."""
