"""Way 1: the whole of sglang, in a child, under a warden.

`start` boots an engine. It is called in a scene, a function that `repro.lab.engine.launcher` runs in a child.
"""

from repro.lab.engine.boot import (
    PROMPT,
    SAYS,
    SMALL_VLM,
    START_METHOD,
    TINY,
    arguments,
    chat,
    default_model,
    environment,
    import_sglang,
    prepare,
    start,
    stay_on_loopback,
)
from repro.lab.machine.device import CPU, CUDA, Device

__all__ = [
    "CPU",
    "CUDA",
    "PROMPT",
    "SAYS",
    "SMALL_VLM",
    "START_METHOD",
    "TINY",
    "Device",
    "arguments",
    "chat",
    "default_model",
    "environment",
    "import_sglang",
    "prepare",
    "start",
    "stay_on_loopback",
]
