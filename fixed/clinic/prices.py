"""What a design costs: time on the tokenizer's event loop, bytes copied, and room in /dev/shm. The floor, one copy of
the feature in memory, is measured in the same rounds."""

from __future__ import annotations

import ctypes
import os
import time
from dataclasses import dataclass
from multiprocessing import shared_memory
from typing import Any

from fixed.designs import Design
from repro.lab.evidence.event import NAMING
from repro.lab.lifted import Run, make_request, run
from repro.lab.lifted.request import shape_of
from repro.lab.places import SHM

ROUNDS, ENOUGH, LONG = 5, 1 << 28, 2.0  # rounds, copied bytes, seconds: the first of these limits ends a measurement
WARM = 3  # at least so many rounds for a design that keeps segments: round 1 brings the pages, round 2 maps them
BESIDE = 3  # how often the floor and a fresh segment are measured in each round
TIMEOUT = 120.0


@dataclass(frozen=True)
class Price:
    """The price of n samples of one image of `size` x `size` pixels. Times are the minimum of the rounds, because noise
    only adds time. `dispatch_ms`: milliseconds for which all sends together held the event loop. `floor_ms`: one memcpy
    of the feature. `fresh_ms`: one first write of the feature into a fresh segment. `bytes_copied`: the bytes that the
    tokenizer copied into segments, clones and messages. `shm_peak_bytes`: the most bytes that the run's segments had in
    /dev/shm at a time, over all rounds; segments that the design keeps count, too."""

    n: int
    size: int
    dispatch_ms: float
    floor_ms: float
    fresh_ms: float
    bytes_copied: int
    shm_peak_bytes: int
    feature_bytes: int


@dataclass(frozen=True)
class Growth:
    """What each further sample costs between n = `few` and n = `many`: microseconds of the event loop, and bytes
    copied."""

    few: int
    many: int
    microseconds: float
    bytes: float


def price(design: Design, n: int, size: int, rounds: int = ROUNDS, seconds: float = LONG) -> Price | None:
    """Return the price of n samples of one image of `size` x `size` pixels, after at most `rounds` rounds or `seconds`
    seconds. Return None if a run does not survive."""
    request = make_request(shape=shape_of(size))
    feature = request.mm_inputs.mm_items[0].feature
    target = feature.clone()
    dispatches, floors, fresh, copied, peaks = [], [], [], [], []
    until = time.monotonic() + seconds
    design.drain()  # it may keep segments for images of other sizes
    while len(dispatches) < (WARM if design.kept() else 1) or (
        len(dispatches) < rounds and sum(copied) < ENOUGH and time.monotonic() < until
    ):
        floors += [memcpy(target, feature) for _ in range(BESIDE)]
        fresh += [fresh_segment(feature) for _ in range(BESIDE)]
        result = run(request, n=n, fix=design, timeout=TIMEOUT)
        if result.verdict.outcome != "survived":
            return None
        request.mm_inputs.mm_items[0].feature = feature  # a design may leave a pointer there
        dispatches.append(1e3 * sum(send.seconds for send in result.sends))
        copied.append(bytes_copied(result))
        peaks.append(shm_peak(result))
    design.drain()
    return Price(
        n,
        size,
        min(dispatches),
        1e3 * min(floors),
        1e3 * min(fresh),
        min(copied),
        max(peaks),
        feature.nbytes,
    )


def growth(design: Design, size: int, few: int = 2, many: int = 256, rounds: int = 10) -> Growth:
    """Measure and return what a further sample costs between n = `few` and n = `many`."""
    less, more = (price(design, n, size, rounds, seconds=10.0) for n in (few, many))
    return between(less, more)


def between(less: Price, more: Price) -> Growth:
    """Return the growth from the price with fewer samples to the price with more."""
    samples = more.n - less.n
    milliseconds, copied = more.dispatch_ms - less.dispatch_ms, more.bytes_copied - less.bytes_copied
    return Growth(less.n, more.n, 1e3 * milliseconds / samples, copied / samples)


def memcpy(target: Any, tensor: Any) -> float:
    """Return the seconds that libc's `memcpy` takes, on one thread, to copy the tensor's bytes into `target`. `target`
    is a tensor of the same size, whose pages exist."""
    began = time.perf_counter()
    ctypes.memmove(target.data_ptr(), tensor.data_ptr(), tensor.nbytes)
    return time.perf_counter() - began


def fresh_segment(tensor: Any) -> float:
    """Return the seconds of one first write of the tensor's bytes into a fresh segment, as sglang does it: create, map,
    write through the mapping, close."""
    import torch

    began = time.perf_counter()
    segment = shared_memory.SharedMemory(create=True, size=tensor.numel() * tensor.element_size())
    torch.frombuffer(segment.buf, dtype=torch.uint8).copy_(tensor.view(torch.uint8).reshape(-1))
    segment.close()
    seconds = time.perf_counter() - began
    segment.unlink()
    return seconds


def bytes_copied(result: Run) -> int:
    """Return how many bytes the run copied into fresh segments, clones and messages. A segment counts once, even if it
    has many names."""
    segments: dict[int, int] = {}
    for send in result.sends:
        segments |= send.segments
    return sum(segments.values()) + sum(send.cloned + send.inline for send in result.sends)


def shm_peak(result: Run) -> int:
    """Return the most bytes that the run's segments had in /dev/shm at a time. A segment counts from its first name
    until its last name is unlinked. Segments that the fix keeps count during the whole run. The numbers come from the
    recorder's events, so segments of other programs do not count."""
    kept = _kept(result)
    segment_of = {
        name: (inode, size)
        for send in result.sends
        for name, (inode, size) in zip(send.names, send.segments.items(), strict=False)
        if inode not in kept
    }
    named: dict[int, set[str]] = {}
    now = peak = sum(kept.values())
    for event in result.events:
        if event.name not in segment_of or event.what not in (*NAMING, "unlink"):
            continue
        inode, size = segment_of[event.name]
        before, names = bool(named.get(inode)), named.setdefault(inode, set())
        if event.what == "unlink":
            names.discard(event.name)
        else:
            names.add(event.name)
        now += size * (bool(names) - before)
        peak = max(peak, now)
    return peak


def _kept(result: Run) -> dict[int, int]:
    """Return the segments that the fix keeps: inode -> size in bytes."""
    status = [os.stat(SHM / name.lstrip("/")) for name in result.kept]
    return {each.st_ino: each.st_size for each in status}
