"""The command line: the door for people and scripts."""
