"""A second system: it bills what the shop has accepted. It has its own log and its own process, and imports nothing of the shop.

Read `model.py`: it is the whole of it. `__main__.py` is the command line.
"""
