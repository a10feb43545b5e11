"""The command line: the transport for people and scripts."""
