"""An order of acts that was recorded before, followed by all processes of another run.

Every process knows the whole order: which role does what, one act after the other. A number that all of them share says
whose turn it is. So nobody has to hold anything, and a process that dies holds nobody up: it died after its last act.

Where a run cannot follow, because a process does something else or does not come to its act, all of them give the order
up, and go on as they like. Whether a run was as recorded, its own record says.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ACTS = ("create", "link", "open", "unlink", "map", "close")  # what waits for its turn
OF_MEMORY = ("map", "close")  # those that no model has
TOKENIZER, GIVEN_UP = "tokenizer", -1
PAUSE = 0.0002  # seconds between two looks at the number
Order = Sequence[tuple[str, str]]  # of each act, the role and what it does


class InOrder:
    """The place of the process with this `role` in an `order`. `path` is the file with the number; whoever comes first
    makes the file. A process waits `patience` seconds for its turn, at most."""

    def __init__(self, path: str, order: Order, role: str, patience: float) -> None:
        self.order, self.role, self.patience = order, role, patience
        self._mine = deque(number for number, (who, _) in enumerate(order) if who == role)
        with Path(path).open("a+b") as file:
            file.truncate(mmap.PAGESIZE)  # zeros, or what is there
            self._next = ctypes.c_int.from_buffer(mmap.mmap(file.fileno(), mmap.PAGESIZE))

    @contextmanager
    def turn(self, what: str) -> Iterator[None]:
        """Wait until `what` is this process's next act, and the order's; the context does it."""
        if what not in ACTS or self._is_over():
            yield
            return
        number = self._mine.popleft() if self._mine else len(self.order) + 1  # beyond: it was killed before it did more
        if number < len(self.order) and self.order[number][1] != what:
            self.give_up()
        if number > len(self.order) and self.role == TOKENIZER:  # which is never killed
            self.give_up()
        self._until(number)
        try:
            yield
        finally:
            if not self._is_over():
                self._next.value = number + 1

    def wait_for_others(self) -> None:
        """Wait until this process's next act is the order's next, too; or, if it has none, until the order is over."""
        self._until(self._mine[0] if self._mine else len(self.order))

    def give_up(self) -> None:
        """From now on, nobody follows the order."""
        self._next.value = GIVEN_UP

    def _is_over(self) -> bool:
        return self._next.value == GIVEN_UP

    def _until(self, number: int) -> None:
        until = time.monotonic() + self.patience
        while GIVEN_UP != self._next.value < number:
            if time.monotonic() > until:
                self.give_up()
            time.sleep(PAUSE)
