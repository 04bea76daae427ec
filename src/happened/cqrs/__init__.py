"""CQRS: views are folds of the log, kept in tables, and asked apart from where is decided."""
