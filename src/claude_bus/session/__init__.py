"""One session on the bus: its identity, the mail that its model has received, and how it waits and is woken."""
