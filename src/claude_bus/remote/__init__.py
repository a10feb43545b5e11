"""Buses that are served elsewhere, and how to speak to them."""
