"""Way 1: the whole of sglang, in a child, under a warden."""

from repro.lab.engine.boot import (
    CPU,
    CUDA,
    PROCESSORS,
    SMALL_VLM,
    START_METHOD,
    TINY,
    Device,
    arguments,
    default_model,
    environment,
    import_sglang,
    start,
)

__all__ = [
    "CPU",
    "CUDA",
    "PROCESSORS",
    "SMALL_VLM",
    "START_METHOD",
    "TINY",
    "Device",
    "arguments",
    "default_model",
    "environment",
    "import_sglang",
    "start",
]
