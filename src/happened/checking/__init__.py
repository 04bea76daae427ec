"""Checking: does this code, on this history, come to the same? What was recorded is decided and folded again, and compared."""
