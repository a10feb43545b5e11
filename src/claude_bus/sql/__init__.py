"""The operations of the bus: each a plain synchronous function over one open transaction."""
