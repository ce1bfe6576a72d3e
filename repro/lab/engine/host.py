"""A process that has imported sglang once and forks an engine for each scene: three seconds instead of a whole boot.

Each scene runs as if it were the first scene. It is forked from a process that has never started an engine. It has its
own session, warden, environment, temporary folder and record. So a host survives every crash, and a scene finds nothing
of earlier scenes. A host ends when the process that started it ends.

`python -m repro.lab.engine.host 'repro/crash.py' 'fixed/crash.py --n 3'` runs scripts, one after another, on one host.
"""

from __future__ import annotations

import gc
import hashlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import resource_tracker
from pathlib import Path

from repro.lab import engine, folders
from repro.lab.engine import deferred, warden
from repro.lab.places import ROOT

ADDRESS = "SGLANG_SHM_KIT_HOST"  # environment variable: the host's socket (a descriptor), and how it imported sglang
SERVE = "--serve"
PATIENCE = 10.0  # seconds for a host to end, before it is killed
# The variables that decide how sglang is imported. A host serves only scenes that would import it in the same way.
DECIDES = (
    "PYTHON",
    "LD_",
    "SGLANG_",
    "TORCH",
    "CUDA",
    "HF_",
    "TRANSFORMERS_",
    "TRITON_",
    "OMP_",
    "MKL_",
    "XDG_",
    "HOME",
)
OURS = "SGLANG_SHM_"  # the kit's variables for its own processes; only two of them decide how sglang is imported
OURS_THAT_DECIDE = (engine.START_METHOD, deferred.NAMES)


class Host:
    """A running host, and this process's end of the socket to it. A context manager: at its end, the host ends."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start a host with `environment` added to this process's. It imports sglang while this process goes on."""
        self.folder = folders.make("host")
        surroundings = {**os.environ, **environment, "PYTHONPATH": python_path()}
        self.kind = kind_of(surroundings)
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "repro.lab.engine.host", SERVE, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**surroundings, "TMPDIR": str(self.folder)},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> dict[str, str]:
        """The variables with which a script finds this host. The script must also inherit the socket."""
        return {ADDRESS: f"{self.socket.fileno()}:{self.kind}"}

    def close(self) -> None:
        """End the host. A running scene goes on under its own warden."""
        self.socket.close()
        self.process.terminate()  # it may be in the middle of its import, and then it does not read its socket
        try:
            self.process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:  # it is stopped (SIGSTOP), or it does not react
            self.process.kill()
            self.process.wait()
        folders.remove(self.folder)

    def last_words(self) -> str:
        """The last line that a host printed before it ended; "" if the host lives."""
        try:
            self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            return ""
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f", and the host ended: {lines[-1] if lines else 'it printed nothing'}"

    @property
    def _log(self) -> Path:
        return self.folder / "host.log"


def fork_warden(host: int, stdin: int, stdout: int) -> None:
    """Let the host whose socket is the descriptor `host` fork a warden that reads from `stdin` and writes to `stdout`.
    Raises OSError if there is no host any more."""
    with socket.socket(fileno=os.dup(host)) as connection:
        socket.send_fds(connection, [b"warden"], [stdin, stdout])


def for_scene(environment: Mapping[str, str], on: Host | None = None) -> int | None:
    """The descriptor of a host that imports sglang in the way of a scene with `environment`: the host `on`, or the host
    that this process has inherited. None if there is no such host."""
    if on:
        descriptor, kind = on.socket.fileno(), on.kind
    else:
        descriptor, _, kind = os.environ.get(ADDRESS, "").partition(":")
    return int(descriptor) if kind and kind == kind_of(environment) else None


def kind_of(environment: Mapping[str, str]) -> str:
    """A digest of everything that decides how sglang is imported."""
    names = [name for name in environment if name.startswith(DECIDES) and not name.startswith(OURS)]
    names += [name for name in OURS_THAT_DECIDE if name in environment]
    told = [sys.executable, *(f"{name}={environment[name]}" for name in sorted(names))]
    return hashlib.sha256("\0".join(told).encode()).hexdigest()[:16]


def python_path() -> str:
    """`PYTHONPATH` for a process that has to find this package, from any working directory."""
    inherited_path = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return os.pathsep.join([str(ROOT), *(entry for entry in inherited_path if entry != str(ROOT))])


def serve(descriptor: int) -> tuple[str, str] | None:
    """Import sglang, then fork a warden for each request, until no process holds the other end of the socket.

    In the host itself, this returns None. In the process that a warden has forked for its scene, it returns that scene.
    """
    import setproctitle

    connection = socket.socket(fileno=descriptor)
    folder = Path(tempfile.gettempdir())
    engine.import_sglang()
    setproctitle.getproctitle()  # setproctitle reserves its room now: later, a scene gets an environment of its own
    require_one_thread()
    gc.freeze()  # the garbage collector never visits these objects again, so their pages stay shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the wardens are reaped by the kernel
    while True:
        _, descriptors, *_ = socket.recv_fds(connection, 64, 2)
        if not descriptors:
            folders.remove(folder)  # the process that made it is gone
            return None
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            connection.close()
            return _guarded_scene(*descriptors)
        for each in descriptors:
            os.close(each)


def _guarded_scene(stdin: int, stdout: int) -> tuple[str, str]:
    """In the warden, this does the warden's whole work and ends the process. In the scene's process, it returns the
    scene."""
    os.setsid()
    for given, standard in ((stdin, 0), (stdout, 1)):
        os.dup2(given, standard)
        os.close(given)
    task = warden.read_task()
    child = warden.start(task)
    if child:
        warden.watch(task, child)
        os._exit(0)
    os.environ.clear()
    os.environ.update(task.environment)
    forget_the_host()
    return tuple(task.scene)


def forget_the_host() -> None:
    """Drop the things that a forked process would otherwise share with the host: the cached temporary folder, and the
    resource tracker, if an import has started one."""
    tempfile.tempdir = None
    tracker = resource_tracker._resource_tracker
    if tracker._fd is not None:
        os.close(tracker._fd)
        tracker._fd = tracker._pid = None


def require_one_thread() -> None:
    """Raise RuntimeError if this process has a second thread. A forked child has no such thread, so no thread there
    would free the locks that the second thread holds."""
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise RuntimeError(f"a host must not fork: the import has started {threads - 1} threads")


def main(words: Sequence[str]) -> int:
    """Run scripts on one host, until one fails. Returns the exit status of the last one."""
    with Host(engine.environment(engine.TINY, engine.CPU)) as host:
        for script in words:
            print(f"$ python {script}", flush=True)
            try:
                run = subprocess.run(
                    [sys.executable, *shlex.split(script)],
                    env={**os.environ, **host.address},
                    pass_fds=[host.socket.fileno()],
                )
            except KeyboardInterrupt:  # the script, which was interrupted, too, has said so
                return 130
            if run.returncode:
                return run.returncode
            print(flush=True)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == [SERVE]:
        from repro.lab.engine import child

        scene = serve(int(sys.argv[2]))
        sys.exit(child.main(*scene) if scene else 0)
    sys.exit(main(sys.argv[1:]))
