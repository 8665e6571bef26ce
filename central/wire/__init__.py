"""Central's view of the wire."""
