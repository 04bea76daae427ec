"""Five systems that know nothing of each other, and one that listens to all: the posts of a site, their votes, comments, revisions and badges.

Read `producers.py` and `reader.py` first: they are the six systems, and neither imports the other. `read.py` brings what happened on the site, `channel.py`
disturbs the delivery, `__main__.py` is the command line.
"""
