"""The calls of the local API, one file per noun. Each ends in its table of routes."""
