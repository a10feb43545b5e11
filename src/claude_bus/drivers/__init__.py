"""Storage engines: each opens its store, runs operations in transactions, and notifies waiting readers."""
