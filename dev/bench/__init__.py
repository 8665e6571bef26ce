"""Measures what the sidecar costs and saves, beside the SQL and the HTTP call it replaces."""
