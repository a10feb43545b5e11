"""`/v1`: the operations of the bus as a JSON API for programs, with its OpenAPI document."""
