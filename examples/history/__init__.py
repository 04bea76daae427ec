"""The history of a git repository as events: every state it ever was in, rebuilt from what changed, and proved by git's own digests.

Read `model.py` first, then `tree.py`, which holds a state, then `__main__.py`, which does it; `git.py` asks git.
"""
