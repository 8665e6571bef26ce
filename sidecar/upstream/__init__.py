"""Calls to central: the only place of the sidecar that speaks HTTP outward."""
