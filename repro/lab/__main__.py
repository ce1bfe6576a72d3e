"""`python -m repro.lab`: one experiment from a shell, or the trigger table, or the list of what is not sglang."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from repro.lab.engine.command import OneLineParser, count
from repro.lab.evidence.verdict import Refused
from repro.lab.lifted import experiment as experiments
from repro.lab.lifted import request
from repro.lab.lifted.pool import bench
from repro.lab.upstream import source, standins


def main() -> int:
    """0: the experiment was made, whatever came of it. 1: a row of --when differs. 2: bad usage or a missing part."""
    try:
        arguments = parse()
        if arguments.explain:
            print("\n".join(explain(source.name_of(arguments.release))))
        elif arguments.when:
            return when(engine=not arguments.quick, as_json=arguments.json)
        else:
            experiment(arguments)
    except (Refused, ValueError) as refusal:
        print(f"repro.lab: {refusal}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def experiment(arguments: Namespace) -> None:
    """Run one experiment and print it."""
    source.read(arguments.release, source.TOKENIZER_MANAGER)  # is there such a release? That is known at once
    fix = load(arguments.fix) if arguments.fix else {}
    bench.warm_up()  # imports torch in another process, while this one imports it for the request
    made = [
        request.make_request(
            arguments.feature,
            items=arguments.items,
            rid=f"request-{i}",
            seed=100 * i,
            shape=request.shape_of(arguments.size),
        )
        for i in range(arguments.prompts)
    ]
    result = experiments.run(
        made,
        n=arguments.n,
        release=arguments.release,
        **fix,
        transport=arguments.transport,
        ranks=arguments.ranks,
        barrier=not arguments.no_barrier,
        late=arguments.late,
    )
    if arguments.json:
        sends = [vars(send) for send in result.sends]
        print(json.dumps({"verdict": result.verdict.as_dict(), "sends": sends, "faults": result.faults()}, indent=2))
    else:
        print("\n".join(told(result, events=arguments.events)))


def told(result: experiments.Run, *, events: bool) -> Iterator[str]:
    """A run in lines for people: its sends with their names, and what is wrong with who owns what."""
    verdict = result.verdict
    yield f"sglang {verdict.release} in the lab, n = {verdict.n}: {verdict.outcome}"
    for send in result.sends:
        state = {True: "intact", False: "DAMAGED", None: "no answer"}[send.intact]
        yield f"  {send.label:<12} {state:<10} {', '.join(send.names) or 'inline'}"
    if verdict.error:
        message, where = verdict.message or "", f" at {verdict.where}" if verdict.where else ""
        yield f"{verdict.error}: {message}".rstrip(": ") + where
    if events:
        began = result.events[0].at if result.events else 0.0
        for event in result.events:
            label = result.labels[event.send] if event.send is not None else ""
            yield f"  {1e3 * (event.at - began):8.2f} ms  {event.role:<11} {event.what:<11} {event.name}  {label}"
    faults = result.faults()
    yield "faults: none" if not faults else "faults:"
    yield from (f"  {fault}" for fault in faults)


def when(*, engine: bool, as_json: bool) -> int:
    """Print the trigger table, a row as it is measured; 1 if a row differs from what is known."""
    from repro.lab.when import table

    rows = []
    if not as_json:
        print(f"{'condition':<46} {'known':<9} {'measured':<9} {'evidence':<8} detail")
    for measured in table(engine=engine):
        row = measured.row
        rows.append({"condition": row.condition, "known": row.known, "evidence": row.evidence})
        rows[-1].update(outcome=measured.outcome, detail=measured.detail, differs=measured.differs)
        if not as_json:
            mark = "  <- DIFFERS" if measured.differs else ""
            line = f"{row.condition:<46} {row.known:<9} {measured.outcome:<9} {row.evidence:<8} {measured.detail}"
            print(line + mark, flush=True)
    if as_json:
        print(json.dumps(rows, indent=2))
    return int(any(row["differs"] for row in rows))


def explain(release: str) -> Iterator[str]:
    """What is lifted from `release`, line by line of its files, and everything that stands in for the rest."""
    lifted = [part for part in (standins.mm_utils(release), standins.tokenizer_manager(release, False)) if part]
    yield f"lifted from sglang {release}, as released:"
    for part in lifted:
        for name, line in sorted(part.lines.items(), key=lambda entry: entry[1]):
            yield f"  {part.source.path.name}:{line:<5} {name}"
    used = {name for part in lifted for name in part.given}
    yield "passed in, the real thing:"
    yield f"  {', '.join(sorted(name for name in used if name not in standins.of_modules()))}"
    yield "passed in, NOT sglang (repro/lab/upstream/standins.py, repro/lab/lifted/request.py):"
    for name, standin in standins.of_modules().items():
        if name in used:
            yield f"  {name:<34} {standin.why}"
    yield "and the scheduler's loop (repro/lab/lifted/scheduler_side.py): receive, unwrap, compare, answer; no model"


def load(name: str) -> dict[str, Any]:
    """A fix as the lab is told of it: the function `module:function`, to be applied at both expansion points, or the
    design `fixed.designs.NAME`; else a bare NAME stands for `fixed.NAME:NAME`. Raises Refused if there is none."""
    module, _, function = name.partition(":")
    try:
        if not function and importlib.util.find_spec(f"fixed.designs.{name}"):
            design = importlib.import_module(f"fixed.designs.{name}")
            return {"prepare": getattr(design, "PREPARE", None), "hooks": getattr(design, "HOOKS", None)}
        holder = importlib.import_module(module if function else f"fixed.{name}")
        return {"prepare": getattr(holder, function or name)}
    except (ImportError, AttributeError, ValueError) as error:
        raise Refused(
            f"no fix {name!r} ({error}): give module:function, such as fixed.detach:detach, or a design: pure_wrap, ..."
        ) from None


def parse() -> Namespace:
    """The command line. Raises Refused, in one line, where argparse would print its usage."""
    parser = OneLineParser(prog="python -m repro.lab", description=__doc__)
    parser.add_argument("--n", type=count, default=2, help="how many samples (default: %(default)s)")
    parser.add_argument("--release", default=source.INSTALLED, help=f"{source.OLDEST} to {source.NEWEST}, or installed")
    parser.add_argument("--feature", choices=request.FEATURES, default="tensor", help="what the item holds")
    parser.add_argument("--size", type=count, default=112, metavar="PIXELS", help="an image's side (default: 112)")
    parser.add_argument("--items", type=count, default=1, help="how many items a prompt has")
    parser.add_argument("--prompts", type=count, default=1, help="how many prompts the batch has")
    parser.add_argument("--transport", choices=experiments.TRANSPORTS, default="shm")
    parser.add_argument("--ranks", type=count, default=1, help="how many tensor-parallel ranks")
    parser.add_argument("--no-barrier", action="store_true", help="let rank 0 unwrap before the others open ...")
    parser.add_argument("--late", type=float, default=0.0, metavar="SECONDS", help="... after this long (default: 0)")
    parser.add_argument("--fix", metavar="NAME", help="what to fix it with, e.g. detach, or a design, e.g. pure_wrap")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--events", action="store_true", help="print who created, opened, unlinked what, and when")
    parser.add_argument("--explain", action="store_true", help="print what is lifted and what is not sglang")
    parser.add_argument("--when", action="store_true", help="measure the trigger table")
    parser.add_argument("--quick", action="store_true", help="with --when: leave out the rows that boot the engine")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
