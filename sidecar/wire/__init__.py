"""The sidecar's view of the wire."""
