"""Remote buses, and clients for their protocols."""
