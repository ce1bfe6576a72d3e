"""Checks before anything is started. Standard library only, because the checks must run if packages are missing."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from pathlib import Path

from repro.lab import packages
from repro.lab.machine import surroundings
from repro.lab.places import SHM
from repro.lab.refused import Refused

PARTS = {
    "sglang": "sglang",
    "torch": "torch",
    "transformers": "transformers",
    "PIL": "pillow",
    "psutil": "psutil",
    "zmq": "pyzmq",
}
SHM_NEEDED = 16 << 20  # bytes: about a dozen features of the largest image that the tiny model takes


def require_linux() -> None:
    """Raise Refused on any other system: sglang and /dev/shm exist on Linux only."""
    if sys.platform != "linux":
        raise Refused(f"this runs on Linux only, not on {sys.platform}", "use a Linux machine, a container or WSL 2")


def require_parts() -> None:
    """Raise Refused if a package that the engine needs is not installed here."""
    lacking = [PARTS[module] for module in packages.missing(PARTS)]
    if lacking:
        here = surroundings.here()
        way_out = "run `make demo`, or use .venv/bin/python" if here is surroundings.CPU else here.mend
        raise Refused(f"{sys.executable} has no {', '.join(lacking)}", way_out)


def whole(path: Path, option: str) -> Path:
    """The absolute path. Raises Refused, with the `option`, if the path is impossible: `~` of an unknown user, a loop
    of links, or a name that is too long."""
    try:
        found = path.expanduser().resolve()
        found.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise Refused(f"{option} {str(path)[:80]} is not a path ({_one_line(error)})", "give another one") from None
    return found


def require_no_pipe(path: Path) -> None:
    """Raise Refused for a named pipe, a socket or a device. A process that opens a pipe waits for a process at the
    other end, perhaps for ever. A process that reads a device, such as /dev/full, may never come to an end."""
    with contextlib.suppress(OSError):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise Refused(f"{path} is a pipe, a socket or a device", "give a file")


def require_image(path: Path) -> None:
    """Raise Refused unless `path` is an image that Pillow can read to its end. A large image gives no warning."""
    from PIL import Image

    require_no_pipe(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
    except FileNotFoundError:
        way_out = "give the path of a PNG or JPEG file, or leave --image out"
        raise Refused(f"no image at {path}", way_out) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Refused(f"cannot read {path} as an image ({_one_line(error)})", "give a whole PNG or JPEG file") from None


def require_model(model: str) -> str:
    """The model as sglang needs it: the absolute path of a folder, or a hub id. Raises Refused unless `model` is a
    folder with a config.json, or an id whose config.json is available."""
    folder = whole(Path(model), "--model")
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise Refused(f"no config.json in {folder}", "give a model's folder, a hub id, or `tiny`")
        return str(folder.resolve())
    if folder.exists() or model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise Refused(f"no model at {model}", "give a model's folder, a hub id such as org/name, or `tiny`")
    _require_hub(model)
    return model


def require_shared_memory() -> None:
    """Raise Refused unless a segment can be made in /dev/shm and there is room for some."""
    try:
        with tempfile.TemporaryFile(dir=SHM):
            room = os.statvfs(SHM)
    except OSError as error:
        way_out = "mount a tmpfs there that you may write to"
        raise Refused(f"cannot write to {SHM} ({error.strerror})", way_out) from None
    free = room.f_bavail * room.f_frsize
    if free < SHM_NEEDED:
        raise Refused(
            f"{SHM} has {free / 2**20:.0f} MiB free and this needs {SHM_NEEDED >> 20}",
            f"free some of it (ls -lS {SHM}), or make it larger (docker run --shm-size=1g)",
        )


def require_room(memory: int, shared: int, way_out: str) -> None:
    """Raise Refused, with this `way_out`, unless the machine has `memory` bytes of memory, and `shared` bytes are free
    in /dev/shm. If a process writes beyond the room in /dev/shm, Linux ends it with SIGBUS."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    status = os.statvfs(SHM)
    free = status.f_bavail * status.f_frsize
    for needed, room, where in ((memory, available, "of memory"), (shared, free, f"in {SHM}")):
        if needed > room:
            raise Refused(
                f"this may take {needed / 1e6:,.0f} MB {where}, and only {room / 1e6:,.0f} MB are there", way_out
            )


def require_cache(place: Path) -> None:
    """Raise Refused if `place` in the user's cache directory does not exist and cannot be made."""
    if place.is_dir():
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place.parent):
            pass
    except OSError as error:
        raise Refused(
            f"cannot write to the cache directory {place.parent} ({error.strerror})",
            "set XDG_CACHE_HOME to a folder that you may write to",
        ) from None


def require_writable(path: Path, option: str) -> None:
    """Raise Refused, with the `option`, unless the file at `path` can be written. The file is left unchanged."""
    require_no_pipe(path)
    new = not path.exists()
    try:
        with open(path, "ab"):
            pass
    except OSError as error:
        way_out = f"give {option} a file in a folder that exists"
        raise Refused(f"cannot write {path} ({error.strerror})", way_out) from None
    if new:
        path.unlink()


def write(path: Path, text: str, option: str) -> None:
    """Write the whole of `text` into the file at `path`, or nothing. Raises Refused, naming the `option`, if there is
    no room for it or the file cannot be replaced."""
    path = path.resolve()
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        way_out = f"free some room, or give {option} another file"
        raise Refused(f"cannot write {path} ({error.strerror})", way_out) from None


def _require_hub(model: str) -> None:
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import logging

    logging.set_verbosity(logging.CRITICAL)

    try:
        hf_hub_download(model, "config.json")
    except Exception as error:  # no network, no such model, no right to it: the library's own message says which
        raise Refused(
            f"cannot get {model} from the hub ({_one_line(error)})",
            "check the name and the network, or give a model's folder, or `--model tiny`",
        ) from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
