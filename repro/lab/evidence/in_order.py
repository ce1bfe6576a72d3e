"""A recorded order of acts, which all processes of another run follow.

Every process knows the whole order: which role does what, one act after the other. The processes share one number: the
number of the next act. So there is no lock that a dying process could keep. A process that dies at the same place as
the recorded process has no act left in the order, so no other process waits for it.

A run cannot follow the order if a process does another act, or does not reach its act in time. Then all processes give
the order up, and go on without waiting. Only the run's own record says whether the run was as recorded.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ACTS = ("create", "link", "open", "unlink", "map", "close")  # the acts that wait for their turn
OF_MEMORY = ("map", "close")  # the acts that no model of the protocol has
TOKENIZER, GIVEN_UP = "tokenizer", -1
PAUSE = 0.0002  # seconds between two looks at the number
Order = Sequence[tuple[str, str]]  # for each act: the role, and what the role does


class InOrder:
    """The place of the process with this `role` in an `order`. `path` is the file with the shared number. The first
    process makes this file. A process waits for its turn for at most `patience` seconds."""

    def __init__(self, path: str, order: Order, role: str, patience: float) -> None:
        self.order, self.role, self.patience = order, role, patience
        self._mine = deque(number for number, (who, _) in enumerate(order) if who == role)
        with Path(path).open("a+b") as file:
            file.truncate(mmap.PAGESIZE)  # a new file gets zeros; a file that is there keeps its content
            self._next = ctypes.c_int.from_buffer(mmap.mmap(file.fileno(), mmap.PAGESIZE))

    @contextmanager
    def turn(self, what: str) -> Iterator[None]:
        """A context that is entered when it is this process's turn. The act `what` is done in the context. If `what` is
        not one of ACTS, the context is entered at once."""
        if what not in ACTS or self._is_over():
            yield
            return
        beyond = len(self.order) + 1  # no act is left: the recorded process was killed before this act
        number = self._mine.popleft() if self._mine else beyond
        if number < len(self.order) and self.order[number][1] != what:
            self.give_up()
        if number > len(self.order) and self.role == TOKENIZER:  # the tokenizer is never killed
            self.give_up()
        self._until(number)
        try:
            yield
        finally:
            if not self._is_over():
                self._next.value = number + 1

    def wait_for_others(self) -> None:
        """Wait until all acts before this process's next act are done. If this process has no act left, wait until all
        acts of the order are done."""
        self._until(self._mine[0] if self._mine else len(self.order))

    def give_up(self) -> None:
        """From now on, no process follows the order."""
        self._next.value = GIVEN_UP

    def _is_over(self) -> bool:
        return self._next.value == GIVEN_UP

    def _until(self, number: int) -> None:
        until = time.monotonic() + self.patience
        while GIVEN_UP != self._next.value < number:
            if time.monotonic() > until:
                self.give_up()
            time.sleep(PAUSE)
