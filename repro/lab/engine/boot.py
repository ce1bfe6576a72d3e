"""Start sglang's own engine, on a GPU or, with a few different arguments, without one.

On a CPU, sglang is imported once: its scheduler and its detokenizer are forked from the process that has imported it.
With `spawn`, the three processes are started as sglang starts them, and each imports all of sglang again.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.lab.engine import deferred, sgl_kernel_standin, tiny_vlm
from repro.lab.evidence.recorder import note
from repro.lab.machine.device import CPU, DEVICES, Device

SMALL_VLM = "Qwen/Qwen2.5-VL-3B-Instruct"
TINY = "tiny"
TINY_NEEDS = {"qwen2", "qwen2_vl", "qwen2_5_vl", "registry", "utils", "qwen_vl", "base_processor", "__init__"}
MODELS, PROCESSORS = "sglang.srt.models", "sglang.srt.multimodal.processors"
START_METHOD = "SGLANG_SHM_KIT_START_METHOD"  # environment variable: how the engine's processes are started
MEET_IN = "SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE"  # environment variable of sglang: `init_method` of torch
EVERYWHERE = {"enable_multimodal": True, "skip_server_warmup": True, "disable_cuda_graph": True, "random_seed": 0}
PROMPT = "What is this?"
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
SAYS = {  # what the phases of a run are called on a terminal
    "model": "looking for the model",
    "import": "importing sglang",
    "boot": "booting sglang: tokenizer, scheduler, detokenizer",
    "generate": "one image, n samples",
}


def chat(question: str, *, picture: bool = True) -> str:
    """The prompt that asks the tiny model this question, about one picture or about none."""
    return f"<|im_start|>user\n{PICTURE if picture else ''}{question}<|im_end|>\n<|im_start|>assistant\n"


def default_model(device: Device) -> str:
    """The model that a run takes if none is named."""
    return TINY if device is CPU else SMALL_VLM


def environment(model: str, device: Device, *, spawn: bool = False) -> dict[str, str]:
    """The variables that the engine's process needs in its environment, besides those of this process. With `spawn`,
    and on a GPU, sglang's processes are started as sglang starts them, and none of their imports is put off."""
    given = dict(device.environment)
    if model == TINY:
        given |= {"HF_HUB_OFFLINE": "1", "SGLANG_DISABLED_MODEL_ARCHS": ",".join(_unused(MODELS))}
    if spawn or device is not CPU:
        return {**given, START_METHOD: "spawn"}
    put_off = [*deferred.UNUSED, *(f"{PROCESSORS}.{name}" for name in _unused(PROCESSORS) if model == TINY)]
    return {
        **given,
        START_METHOD: "fork",
        deferred.NAMES: ",".join(put_off),
        "OPENBLAS_NUM_THREADS": "1",  # otherwise numpy starts threads, and a process with threads must not fork
    }


def arguments(model: str, device: Device) -> dict[str, Any]:
    """The keyword arguments for `sglang.Engine`. Builds the tiny model if it is needed and not there yet."""
    folder = str(tiny_vlm.path()) if model == TINY else model
    return {"model_path": folder, **EVERYWHERE, **device.arguments}


def start(model: str, name: str, **more: Any) -> Any:
    """A running `sglang.Engine` on the device `name` (`cpu` or `cuda`), with `more` arguments if there are any. Call
    this in a child only (see `launcher`): if the engine's scheduler dies, sglang kills the calling process and
    everything below it."""
    sglang = prepare(model)
    note("phase", phase="boot")
    given = {**arguments(model, DEVICES[name]), **more}
    stay_on_loopback(given)
    engine = sglang.Engine(**given)
    note("phase", phase="generate")
    return engine


def stay_on_loopback(given: Mapping[str, Any]) -> None:
    """Let the engine with these arguments listen on loopback only. This process is about to start it on a CPU.

    torch's TCPStore listens on every address of the machine, whatever address it is given. So the scheduler gets a
    file of the run instead, unless the arguments name an address. Without this, Gloo would take the address that the
    machine's name has.
    """
    if given.get("device") == CPU.name:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        if "dist_init_addr" not in given:
            os.environ.setdefault(MEET_IN, f"file://{tempfile.mkdtemp(prefix='store-')}/store")


def prepare(model: str) -> Any:
    """Import the package sglang, and build the model at the same time. Returns the package when both are done. Raises
    OSError if the tiny model cannot be built."""
    note("phase", phase="model")
    builder = tiny_vlm.builder() if model == TINY else None  # builds while this process imports
    note("phase", phase="import")
    sglang = import_sglang()
    if builder and builder.wait():
        raise OSError(f"the tiny model could not be built: its builder exited with {builder.returncode}")
    return sglang


def import_sglang() -> Any:
    """Import and return the package sglang. If its processes will be forked, everything that they need is imported
    now."""
    if os.environ.get("SGLANG_USE_CPU_ENGINE") == "1":
        sgl_kernel_standin.install_if_missing()
    forks = os.environ.get(START_METHOD) == "fork"
    if forks:
        deferred.install()
    _decide_how_processes_start(forks)
    import sglang
    import sglang.srt.entrypoints.engine

    if forks:
        from sglang.srt.managers.multimodal_processor import import_processors

        import_processors(PROCESSORS)
        importlib.import_module(f"{MODELS}.registry")
    return sglang


def _decide_how_processes_start(forks: bool) -> None:
    """From now on, note each call of `multiprocessing.set_start_method`. sglang calls it before it starts its
    processes. If this process `forks`, "spawn" becomes "fork". A process with more than one thread keeps "spawn": a
    forked child would wait for locks that no thread frees."""
    original = multiprocessing.set_start_method

    def set_start_method(method: str | None, force: bool = False) -> None:
        one_thread = len(os.listdir("/proc/self/task")) == 1
        chosen = "fork" if forks and method == "spawn" and one_thread else method
        original(chosen, force=force)
        note("start_method", method=chosen)

    multiprocessing.set_start_method = set_start_method


def _unused(package: str) -> list[str]:
    """The modules of a package of sglang that the tiny model does not need."""
    spec = importlib.util.find_spec("sglang")
    roots = spec.submodule_search_locations if spec else []
    places = [Path(root, *package.split(".")[1:]) for root in roots]
    return sorted({module.stem for place in places for module in place.glob("*.py")} - TINY_NEEDS)
