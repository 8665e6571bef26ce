"""What operators run by hand, in a sidecar's container or with its environment."""
