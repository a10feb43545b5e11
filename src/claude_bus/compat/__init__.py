"""The two earlier systems: their wires, their commands, files of messages."""
