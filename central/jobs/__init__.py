"""Background jobs: what central does on its own schedule."""
