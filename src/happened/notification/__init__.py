"""Event notification: what happened, said to whom it concerns, and who hears it."""
