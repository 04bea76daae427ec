"""Benchmarks: `happened` beside its peers and beside the raw limits of the machine, in the same run.

Nothing here asserts a time. `python -m benchmarks --list` names the rows.
"""
