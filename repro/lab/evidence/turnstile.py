"""A turnstile: each process of a run stops before an act, and goes on when it is told to. So the holder of the
turnstile decides the order in which the acts of all processes come.

A recorder has no turnstile unless it is given one. The holder listens at a UNIX socket. Each process first says its
role.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

GO = "go"


class Turnstile:
    """This process's place at the turnstile at `address`. `role` is the process's role in sglang.

    `told` maps the holder's other words (besides GO) to functions. After such a word, its function is called, and the
    process asks again.
    """

    def __init__(self, address: str, role: str, **about: object) -> None:
        self.told: dict[str, Callable[[], None]] = {}
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(address)
        self._file = self._line.makefile("rw", encoding="utf-8")
        os.register_at_fork(after_in_child=lambda: os.close(self._line.fileno()))  # a place belongs to one process
        self._known: set[str] = set()
        self._write(role=role, pid=os.getpid(), **about)

    @contextmanager
    def turn(self, what: str, name: str = "") -> Iterator[None]:
        """A context: wait until `what` may be done to `name`, let the context do it, and tell the holder the result."""
        self.ask(what, name)
        errno = None
        try:
            yield
        except OSError as error:
            errno = error.errno
            raise
        finally:
            self._write(done=what, errno=errno)

    def ask(self, what: str, name: str = "") -> None:
        """Wait until the holder allows the act."""
        while True:
            self._write(what=what, name=name)
            word = self._file.readline().strip()
            if word == GO:
                return
            self.told[word]()

    def is_new(self, name: str) -> bool:
        """Whether this process has not asked about this name before."""
        new = name not in self._known
        self._known.add(name)
        return new

    def _write(self, **fields: object) -> None:
        self._file.write(json.dumps(fields) + "\n")
        self._file.flush()
