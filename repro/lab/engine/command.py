"""The command line of `repro/crash.py` and `fixed/crash.py`: arguments in, verdict and exit status out.

The server's scripts have the same command line and some additions. A `Manner` holds these additions.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.lab.engine import report
from repro.lab.engine.boot import PROMPT, SAYS
from repro.lab.evidence.verdict import Outcome, Verdict
from repro.lab.machine import device, preflight
from repro.lab.refused import Refused
from repro.lab.terminal import OneLineParser, command, count, progress

KEPT, BROKEN, INTERRUPTED = 0, 1, 130
MOST = 1000  # samples


@dataclass(frozen=True)
class Manner:
    """The differences between a script and `crash.py`: its additional options and their check (which raises Refused),
    its names of the phases, its text and data for a verdict, and the condition under which a promise is kept."""

    adds: Callable[[ArgumentParser], None]
    checks: Callable[[Namespace], None]
    says: Mapping[str, str]
    text: Callable[[Verdict, Outcome], str]
    data: Callable[[Verdict], dict[str, Any]]
    keeps: Callable[[Verdict, Outcome], bool]


AS_CRASH = Manner(lambda parser: None, lambda given: None, SAYS, report.text, Verdict.as_dict, Verdict.keeps)


@command
def main(scene: Callable[[Namespace], Any], promise: Outcome, manner: Manner = AS_CRASH) -> int:
    """Run `scene` as the command line says and print its verdict.

    Returns 0 if the promised thing happened, 1 if something else did, 2 for bad usage or a missing part.
    """
    try:
        return run(scene, parse(scene.__doc__ or "", promise, manner), promise, manner)
    except KeyboardInterrupt:
        print("\ninterrupted: everything that was started is gone", file=sys.stderr)
        return INTERRUPTED


def run(scene: Callable[[Namespace], Any], arguments: Namespace, promise: Outcome, manner: Manner) -> int:
    """Check, run, print. Raises Refused if the run cannot be made as asked."""
    preflight.require_linux()
    preflight.require_parts()
    from repro.lab import engine  # only now: these import parts that may be missing
    from repro.lab.engine import launcher

    manner.checks(arguments)
    choice = settle(arguments)
    if choice.why:
        print(f"{Path(sys.argv[0]).name}: {on_the_cpu(choice.why, arguments.model)}", file=sys.stderr)
    environment = engine.environment(arguments.model, choice.device, spawn=arguments.spawn)
    with progress(sys.stderr, manner.says) as shown:
        verdict = launcher.run(scene, arguments, environment=environment, log=arguments.log, on_phase=shown.phase)
    if arguments.json:
        print(json.dumps(manner.data(verdict), indent=2))
    elif verdict.outcome != "refused":
        print(manner.text(verdict, promise))
    if verdict.outcome == "refused":
        raise Refused(verdict.message)
    return KEPT if manner.keeps(verdict, promise) else BROKEN


def settle(arguments: Namespace) -> device.Choice:
    """Replace `auto` and the defaults by real values, check them, and return the choice of the device. Raises Refused
    if something that was asked for is not there."""
    from repro.lab import engine
    from repro.lab.engine import tiny_vlm

    choice = device.choose(arguments.device)
    arguments.device = choice.device.name
    arguments.model = arguments.model or engine.default_model(choice.device)
    if arguments.image:
        arguments.image = preflight.whole(arguments.image, "--image")
        preflight.require_image(arguments.image)
    if arguments.log:
        arguments.log = preflight.whole(arguments.log, "--log")
        preflight.require_writable(arguments.log, "--log")
    preflight.require_shared_memory()
    if arguments.model == engine.TINY:
        preflight.require_cache(tiny_vlm.location())
    else:
        arguments.model = preflight.require_model(arguments.model)
    return choice


def on_the_cpu(why: str, model: str) -> str:
    """The line that says which device `auto` has chosen, why, and how to get the other device."""
    return f"on the CPU, model {model}: {why}. For CUDA: {device.way_to_cuda()}"


def parse(description: str, promise: Outcome, manner: Manner) -> Namespace:
    """The parsed command line. Raises Refused, with one line, for bad usage; argparse would print its usage and
    exit."""
    parser = OneLineParser(description=" ".join(description.split()))
    parser.add_argument("--n", type=count, default=2, help="how many samples to ask for (default: %(default)s)")
    parser.add_argument("--image", type=Path, metavar="FILE", help="an image (default: 112 x 112 pixels of crimson)")
    parser.add_argument("--prompt", default=PROMPT, metavar="TEXT", help="what to ask (default: %(default)s)")
    parser.add_argument(
        "--model",
        metavar="PATH_OR_ID",
        help="a model's folder, a hub id, or `tiny`, which is part of the kit (default: tiny on a CPU)",
    )
    parser.add_argument("--device", choices=device.NAMES, default="auto", help="(default: cuda if it can be used)")
    parser.add_argument("--spawn", action="store_true", help="on a CPU: start sglang's processes as sglang does")
    parser.add_argument("--json", action="store_true", help="print the verdict as one JSON object and nothing else")
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep what sglang prints in FILE")
    manner.adds(parser)
    arguments = parser.parse_args()
    if arguments.n > MOST:
        raise Refused(f"--n {arguments.n}: a run has two minutes for all samples", f"give {MOST} or fewer")
    if promise == "crashed" and arguments.n == 1:
        raise Refused("--n 1 cannot crash: sglang copies a request for n > 1 only", "give 2 or more")
    return arguments
