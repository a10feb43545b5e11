"""The records of the bus: plain, immutable, without behaviour beyond showing themselves."""
