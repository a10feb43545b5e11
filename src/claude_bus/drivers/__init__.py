"""Storage engines: each opens its store, runs verbs in transactions, and tells who waits."""
