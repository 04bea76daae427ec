"""Event sourcing: deciding on states that are folds of the log, with the outside's answers recorded."""
