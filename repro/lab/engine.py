"""Start sglang's own engine, on a GPU or, with a few different arguments, without one."""

from __future__ import annotations

import ctypes
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.lab import vlm
from repro.lab.recorder import note

SMALL_VLM = "Qwen/Qwen2.5-VL-3B-Instruct"
TINY = "tiny"
TINY_NEEDS = {"qwen2", "qwen2_vl", "qwen2_5_vl", "registry", "utils", "__init__"}


@dataclass(frozen=True)
class Device:
    """What has to be said to sglang for one kind of device: arguments of `Engine`, environment of its process."""

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
        "TORCHDYNAMO_DISABLE": "1",  # else the first request spends 28 s in the compiler
    },
)
EVERYWHERE = {"enable_multimodal": True, "skip_server_warmup": True, "disable_cuda_graph": True, "random_seed": 0}


def has_usable_gpu() -> bool:
    """Whether the CUDA driver is there and counts at least one device. Does not import torch."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def choose(device: str) -> Device:
    """The `Device` for `auto`, `cpu` or `cuda`. Raises KeyError for any other name."""
    if device == "auto":
        device = "cuda" if has_usable_gpu() else "cpu"
    return {"cpu": CPU, "cuda": CUDA}[device]


def environment(model: str, device: Device) -> dict[str, str]:
    """What the engine's process has to find in its environment, besides what is there already."""
    if model != TINY:
        return device.environment
    return {**device.environment, "HF_HUB_OFFLINE": "1", "SGLANG_DISABLED_MODEL_ARCHS": ",".join(_unused_models())}


def arguments(model: str, device: Device) -> dict[str, Any]:
    """The keyword arguments for `sglang.Engine`; builds the tiny model if it is asked for and not there yet."""
    folder = str(vlm.path()) if model == TINY else model
    return {"model_path": folder, **EVERYWHERE, **device.arguments}


def start(model: str, device: str, **more: Any) -> Any:
    """A running `sglang.Engine`, with `more` arguments if there are any. To be called in a child only (see `guard`):
    if its scheduler dies, sglang kills the calling process and everything below it."""
    note("phase", phase="model")
    given = arguments(model, choose(device))
    note("phase", phase="import")
    import sglang

    note("phase", phase="boot")
    engine = sglang.Engine(**{**given, **more})
    note("phase", phase="generate")
    return engine


def _unused_models() -> list[str]:
    """The modules of `sglang.srt.models` that the tiny model does not need (sglang's own switch skips them)."""
    spec = importlib.util.find_spec("sglang")
    roots = spec.submodule_search_locations if spec else []
    return sorted(
        module.stem
        for root in roots
        for module in Path(root, "srt", "models").glob("*.py")
        if module.stem not in TINY_NEEDS
    )
