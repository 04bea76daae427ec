"""Event notification: reactions to what happened, and what is seen of the flow."""
