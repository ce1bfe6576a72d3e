"""The process in which one attempt is loaded and graded. The reader's code may loop, crash or exit. Then this process
ends, and the watcher lives on. The process for the next attempt warms up while the reader thinks, so that the grade
comes at once."""

from __future__ import annotations

import contextlib
import importlib
import json
import signal
import subprocess
import sys
from functools import partial
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

from fixed.exercises.exercise import BAD_FILE, Exercise, Told
from repro.lab.places import ROOT

LIMIT = 120  # seconds for the whole of one attempt; the parts of a grade have limits of their own
ENDS, STOPS = 1.0, 15.0  # seconds for the process to end by itself, and after SIGINT: it may be starting a scheduler


class Judge:
    """A process that waits for a file, grades this one file, and ends. Ctrl-C on the terminal does not reach it."""

    def __init__(self, exercise: Exercise) -> None:
        self._channel, theirs = Pipe()
        with theirs:
            words = [sys.executable, "-m", "fixed.exercises.judge", exercise.name, str(theirs.fileno())]
            self._process = subprocess.Popen(
                words, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
            )

    def grade(self, path: Path) -> Told:
        """Return the grade of the attempt in this file, and end the process. If the process does not answer within
        LIMIT, or dies, the grade says so."""
        try:
            self._channel.send_bytes(str(path.absolute()).encode())
            if not self._channel.poll(LIMIT):
                return Told(
                    BAD_FILE, f"{path} was not graded within {LIMIT} s: look for a loop or a wait without an end"
                )
            return Told(**json.loads(self._channel.recv_bytes()))
        except (EOFError, OSError):
            return Told(BAD_FILE, f"{path} ended the process that graded it: do not exit in the file")
        finally:
            self.close()

    def close(self) -> None:
        """End the process. A process that waits ends by itself; otherwise it gets SIGINT, and at last SIGKILL."""
        self._channel.close()
        interrupt = partial(self._process.send_signal, signal.SIGINT)
        for end, seconds in ((self._process.poll, ENDS), (interrupt, STOPS), (self._process.kill, STOPS)):
            end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
                return


def main(name: str, descriptor: str) -> None:
    """Warm up, wait for the path of a file, and answer with its grade. If the watcher is gone, end."""
    from fixed.exercises import EXERCISES

    with Connection(int(descriptor)) as channel:
        exercise = EXERCISES[name]
        if not channel.poll():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # an import has nothing to clean up: SIGINT may end it at once
            for module in exercise.needs:
                importlib.import_module(module)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            exercise.warm_up()
        try:
            path = Path(channel.recv_bytes().decode())
        except EOFError:
            return
        signal.alarm(LIMIT)  # ends this process even if the watcher is gone
        channel.send_bytes(json.dumps(vars(exercise.of_file(path))).encode())


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        main(*sys.argv[1:])
