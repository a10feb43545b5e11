"""Their wires, as parts of the served app."""
