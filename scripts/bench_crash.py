"""The cost of an engine in the kit, as a ratio to a bare script that starts the same engine as sglang does.

`python -m scripts.bench_crash [--rounds N] [--switches]`. The bare script has a dozen lines. It starts the same engine
with the same arguments, spawns the processes, and dies of the same request. It has no warden, no recorder and no
verdict. All variants are measured in turn, round by round, so that they see the same load of the machine. With
`--switches`, the bare script is also measured without each switch of the boot.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

from repro.crash import scene
from repro.lab import engine
from repro.lab.engine import launcher
from repro.lab.engine.host import Host
from repro.lab.terminal import OneLineParser, command

ROOT = Path(__file__).resolve().parents[1]
PYTHON = [sys.executable]
DEMO = ["-m", "repro.lab.engine.host", "repro/crash.py", "fixed/crash.py"]
GOALS = {
    "repro/crash.py, over the bare script": 0.40,
    "a second engine on one host, over the bare script": 0.12,
    "make demo, over two bare scripts": 0.35,
}
BARE = """\
import json, sys
from repro.lab.engine import sgl_kernel_standin
sgl_kernel_standin.install_if_missing()
if __name__ == "__main__":
    import sglang
    from PIL import Image
    llm = sglang.Engine(**json.loads(sys.argv[1]))
    llm.generate(
        prompt="<|im_start|>user\\n<|vision_start|><|image_pad|><|vision_end|>What is this?<|im_end|>\\n"
        "<|im_start|>assistant\\n",
        image_data=Image.new("RGB", (112, 112), "crimson"),
        sampling_params={"n": 2, "max_new_tokens": 8, "temperature": 0},
    )
"""
SWITCHES = {
    "SGLANG_DISABLED_MODEL_ARCHS (import one model's modules, not all)": ("environment", "SGLANG_DISABLED_MODEL_ARCHS"),
    "HF_HUB_OFFLINE": ("environment", "HF_HUB_OFFLINE"),
    "skip_server_warmup": ("arguments", "skip_server_warmup"),
    "disable_overlap_schedule": ("arguments", "disable_overlap_schedule"),
    "max_total_tokens (a small KV cache)": ("arguments", "max_total_tokens"),
    "TORCHDYNAMO_DISABLE": ("environment", "TORCHDYNAMO_DISABLE"),
}


LIMIT = 900.0  # seconds for a whole run


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """Run `command` in a process group of its own, and return its wall time in seconds."""
    began = time.perf_counter()
    subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        timeout=LIMIT,
    )
    return time.perf_counter() - began


def bare(arguments: dict, environment: dict[str, str]) -> float:
    """Run the bare script, and return the seconds from its start to its death."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "bare.py")
        script.write_text(BARE, encoding="utf-8")
        return seconds([sys.executable, str(script), json.dumps(arguments)], {**environment, "TMPDIR": folder})


def without(switch: tuple[str, str], arguments: dict, environment: dict[str, str]) -> float:
    """Run the bare script without one switch of the boot, and return its seconds."""
    kind, name = switch
    arguments, environment = dict(arguments), dict(environment)
    {"arguments": arguments, "environment": environment}[kind].pop(name)
    return bare(arguments, environment)


def second_engine(host: Host) -> float:
    """Run the crash on a host that has booted an engine before, and return its seconds."""
    arguments = Namespace(n=2, image=None, prompt=engine.PROMPT, model=engine.TINY, device="cpu")
    began = time.perf_counter()
    verdict = launcher.run(scene, arguments, environment=engine.environment(engine.TINY, engine.CPU), on=host)
    assert verdict.is_the_crash(), verdict
    return time.perf_counter() - began


@command
def main() -> None:
    """Measure and print."""
    parser = OneLineParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--switches", action="store_true", help="also leave out each switch of the boot in turn")
    options = parser.parse_args()
    arguments = engine.arguments(engine.TINY, engine.CPU)
    environment = engine.environment(engine.TINY, engine.CPU, spawn=True)
    measured: dict[str, list[float]] = {name: [] for name in GOALS}
    bares = []
    with Host(engine.environment(engine.TINY, engine.CPU)) as host:
        second_engine(host)
        for number in range(options.rounds):
            bares.append(bare(arguments, environment))
            measured["repro/crash.py, over the bare script"].append(
                seconds([*PYTHON, "repro/crash.py"], {}) / bares[-1]
            )
            measured["a second engine on one host, over the bare script"].append(second_engine(host) / bares[-1])
            measured["make demo, over two bare scripts"].append(seconds([*PYTHON, *DEMO], {}) / bares[-1] / 2)
            told = ", ".join(f"{ratios[-1]:.2f}" for ratios in measured.values())
            print(f"round {number + 1}: bare script {bares[-1]:.1f} s; ratios {told}", flush=True)
    for name, ratios in measured.items():
        print(f"{name:<50} {statistics.median(ratios):.2f}  (goal {GOALS[name]})")
    if options.switches:
        base = statistics.median(bares)
        for title, switch in SWITCHES.items():
            print(f"without {title}: {without(switch, arguments, environment) / base:.2f} of bare")


if __name__ == "__main__":
    sys.exit(main())
