"""Calls by noun: each file ends in its table of routes."""
