"""The HTTP transport: one app that serves the bus to other machines, programs and people."""
