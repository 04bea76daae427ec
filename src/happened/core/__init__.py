"""Core: what everything else speaks of. No I/O, no clock, no chance, no threads."""
