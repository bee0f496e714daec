"""Fuzzers for every function that is fed from elsewhere: `python -m tests.fuzz --help`.

`targets.py` has one line for each function, `mutate.py` makes inputs of valid ones, `session.py` runs them in several
processes, and `corpus` keeps inputs that once did harm, as TARGET-anything.
"""
