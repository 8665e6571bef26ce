"""Texera's formats: execution statuses and result URIs."""
