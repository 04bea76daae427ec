"""Event notification: what happened, said to whom it concerns, who hears it, and what is seen of the flow."""
