"""The choice of a run's device. The GPU and its kernels are tried, not guessed. Standard library only."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from repro.lab.refused import Refused

LOADING = 120.0  # seconds that the trial of sgl_kernel may take


@dataclass(frozen=True)
class Device:
    """The settings of sglang for one kind of device: arguments of `Engine`, and the environment of its process."""

    name: str
    arguments: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)


CUDA = Device("cuda", {"device": "cuda"})
CPU = Device(
    "cpu",
    {
        "device": "cpu",
        "attention_backend": "torch_native",
        "grammar_backend": "none",
        "dtype": "float32",
        "disable_overlap_schedule": True,
        "max_total_tokens": 16384,
    },
    {
        "SGLANG_USE_CPU_ENGINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TORCHDYNAMO_DISABLE": "1",  # otherwise the first request spends 28 s in the compiler
    },
)
DEVICES = {device.name: device for device in (CPU, CUDA)}
NAMES = ("auto", *DEVICES)


@dataclass(frozen=True)
class Choice:
    """A device, and `why`: the reason for the CPU, if the user left the choice to the kit; else ""."""

    device: Device
    why: str = ""


def choose(name: str) -> Choice:
    """The choice for `auto`, `cpu` or `cuda`. `auto` takes CUDA only if a GPU can be used here.

    Raises Refused for `cuda` if no GPU can be used, and KeyError for any other name.
    """
    if name == "cpu":
        return Choice(CPU)
    missing = why_no_cuda()
    if name == "cuda" and missing:
        raise Refused(f"--device cuda, but {missing}", f"{way_to_cuda()}, or use --device cpu")
    if name == "auto" and missing:
        return Choice(CPU, missing)
    return Choice(DEVICES["cuda" if name == "auto" else name])


def way_to_cuda() -> str:
    """What to do in order to run on a GPU."""
    if gpu_answers():
        return "run `make gpu`, or use the environment of environment.yml"
    return "use a machine with an NVIDIA driver and a GPU"


def why_no_cuda() -> str:
    """Why CUDA cannot be used here, in a few words; "" if CUDA can be used: a GPU answers, and this environment's own
    `sgl_kernel` loads."""
    return why_no_kernels() if gpu_answers() else "no GPU answers here"


def gpu_answers() -> bool:
    """Whether the CUDA driver is there and counts at least one device. Does not import torch."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


@functools.cache
def why_no_kernels() -> str:
    """Why this environment's `sgl_kernel` cannot be used; "" if it loads. A child process loads it, because a library
    that does not fit the driver may kill its process."""
    if importlib.util.find_spec("sgl_kernel") is None:
        return "a GPU answers, but this environment has no sgl_kernel"
    trial = [sys.executable, "-c", "import torch, sgl_kernel"]
    try:
        tried = subprocess.run(
            trial, cwd=os.sep, capture_output=True, encoding="utf-8", errors="replace", timeout=LOADING
        )
    except subprocess.TimeoutExpired:
        return f"a GPU answers, but this environment's sgl_kernel does not load within {LOADING:.0f} s"
    if tried.returncode == 0:
        return ""
    reason = (tried.stderr.strip().splitlines() or [f"status {tried.returncode}"])[-1]
    return f"a GPU answers, but this environment's sgl_kernel does not load ({reason[:160]})"
