"""What can be rebuilt: tables of rows in a file of their own, for views and replicas alike."""
