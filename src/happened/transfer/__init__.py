"""Event-carried state transfer: what one system says to others, how it gets there, and the copies that others keep of it."""
