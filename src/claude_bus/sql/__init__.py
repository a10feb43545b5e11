"""The verbs: each a plain synchronous function over one open transaction."""
