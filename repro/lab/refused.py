"""The exception for a request that cannot be done as asked, with a way out for the user."""

from __future__ import annotations


class Refused(Exception):
    """Something cannot be done as asked. `what` says what was wrong, with the value; `way_out` says what to do instead
    ("" if nothing can be done). As text, it is one line."""

    def __init__(self, what: str, way_out: str = "") -> None:
        super().__init__(what, way_out)
        self.what, self.way_out = (" ".join(words.split()) for words in (what, way_out))

    def __str__(self) -> str:
        return f"{self.what}: {self.way_out}" if self.way_out else self.what
