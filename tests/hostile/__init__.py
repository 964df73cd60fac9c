"""A vault from a stranger: fuzzers over every reader of its bytes, and whole vaults that were made to harm.

`python -m tests.hostile --seconds 600` runs the fuzzers for long; pytest runs each for a
moment, and every kept input again.
"""
