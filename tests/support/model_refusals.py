"""The exception with which the model of the bus refuses."""

from __future__ import annotations


class Refused(Exception):
    """The bus must answer with the error of this code, and change nothing."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code
