"""Three small programs on real input, each to be read from top to bottom: a shop, the enrolment at a university, and the history of a git repository.

Run them as `python -m examples.shop`, `python -m examples.enrolment` and `python -m examples.history`; each has `--help`.
"""
