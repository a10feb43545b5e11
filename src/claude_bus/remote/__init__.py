"""Clients of buses that are served elsewhere."""
