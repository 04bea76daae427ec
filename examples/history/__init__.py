"""The history of a git repository as events: every state it ever was in, rebuilt from what changed, and proved by git's own digests.

Read `model.py` first, then `travel.py`, which asks for the tree as of a commit, then `__main__.py`, which does it. `lines.py` chooses which commits follow
each other on a line, `rebuild.py` goes through all trees in one pass, `tree.py` makes git's digests, `read.py` asks git.
"""
