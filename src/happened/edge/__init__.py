"""The edge: where people and other programs reach a log. Here is the command line; it chooses nothing that an app could choose for itself."""
