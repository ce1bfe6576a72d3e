"""What `repro/crash.py` costs over a bare script, and what each switch of the boot saves. Ratios of one run.

`python -m scripts.bench_crash [--rounds N] [--switches]`. The bare script is twelve lines: it starts the same engine
with the same arguments in the same environment and dies of the same request; no guard, no recorder, no verdict.
The two are measured in turn, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from repro.lab import engine

ROOT = Path(__file__).resolve().parents[1]
BARE = """\
import json, sys
from repro.lab import kernel_standin
kernel_standin.install_if_missing()
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


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """The wall time of `command`, in a process group of its own."""
    began = time.perf_counter()
    subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return time.perf_counter() - began


def bare(arguments: dict, environment: dict[str, str]) -> float:
    """Seconds from the start to the death of the bare script."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "bare.py")
        script.write_text(BARE)
        return seconds([sys.executable, str(script), json.dumps(arguments)], {**environment, "TMPDIR": folder})


def without(switch: tuple[str, str], arguments: dict, environment: dict[str, str]) -> float:
    """Seconds of the bare script with one switch left out."""
    kind, name = switch
    arguments, environment = dict(arguments), dict(environment)
    {"arguments": arguments, "environment": environment}[kind].pop(name)
    return bare(arguments, environment)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--switches", action="store_true", help="also leave out each switch of the boot in turn")
    options = parser.parse_args()
    arguments = engine.arguments(engine.TINY, engine.CPU)
    environment = engine.environment(engine.TINY, engine.CPU)
    pairs = []
    for number in range(options.rounds):
        pair = seconds([sys.executable, "repro/crash.py"], {}), bare(arguments, environment)
        pairs.append(pair)
        print(
            f"round {number + 1}: repro/crash.py {pair[0]:.1f} s, bare {pair[1]:.1f} s, ratio {pair[0] / pair[1]:.2f}"
        )
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    print(f"median ratio {ratio:.2f} (goal 1.10)")
    if options.switches:
        base = statistics.median(theirs for _, theirs in pairs)
        for title, switch in SWITCHES.items():
            print(f"without {title}: {without(switch, arguments, environment) / base:.2f} of bare")


if __name__ == "__main__":
    main()
