"""The HTTP door: one app that serves the bus to other machines, programs and people."""
