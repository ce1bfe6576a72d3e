"""Where a long run is: one line that is rewritten on a terminal, and nothing at all in a pipe."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import TextIO

SAYS = {
    "start": "starting: sglang is imported first",
    "model": "looking for the model",
    "import": "importing sglang",
    "boot": "booting sglang: tokenizer, scheduler, detokenizer",
    "generate": "one image, n samples",
}
CLEAR = "\r\x1b[K"


class Progress:
    """A context in which `phase(name)` says what the run is doing; the elapsed time counts by itself."""

    def __init__(self, stream: TextIO, says: dict[str, str] = SAYS) -> None:
        self.stream, self.says = stream, says
        self.live = stream.isatty()
        self.now, self.began = "start", time.monotonic()
        self.over = threading.Event()

    def phase(self, name: str) -> None:
        """The run has come to this phase."""
        self.now = name

    def __enter__(self) -> Progress:
        if self.live:
            self.clock = threading.Thread(target=self._tick, daemon=True)
            self.clock.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.over.set()
        if self.live:
            self.clock.join()
            self.stream.write(CLEAR)
            self.stream.flush()

    def _tick(self) -> None:
        while not self.over.wait(0.2):
            elapsed = time.monotonic() - self.began
            self.stream.write(f"{CLEAR}{elapsed:5.0f} s  {self.says.get(self.now, self.now)} ...")
            self.stream.flush()
