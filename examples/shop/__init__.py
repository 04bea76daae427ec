"""A shop as events: the lines of its invoices are facts, cancellations are commands, and every sum is a view.

Read `model.py` first: it is the whole shop. `read.py` and `sample.py` bring lines, `demo.py` runs them through the shop, `__main__.py` is the command line.
"""
