"""Central's rules without I/O: the fold, the URI registry, export rules."""
