"""Stores: one technology a file. They keep bytes under names and know nothing of Python types."""
