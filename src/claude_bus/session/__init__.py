"""One session on the bus: who it is, what its model has had before it, how it waits and is woken."""
