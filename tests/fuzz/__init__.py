"""Fuzzers for every function that is fed from elsewhere: `python -m tests.fuzz --help`.

`targets.py` has one line for each function, with those of `keyed.py`, `publishers.py`, `texts.py` and `client.py`;
`seeds.py` has valid inputs, `mutate.py` makes others of them, `session.py` runs them in several processes, and `corpus`
keeps inputs that once did harm, or that are made by hand, as TARGET-anything.
"""
