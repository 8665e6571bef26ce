"""What central does on its own schedule."""
