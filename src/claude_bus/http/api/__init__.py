"""`/v1`: the verbs of the bus as a JSON API for programs, with its OpenAPI document."""
