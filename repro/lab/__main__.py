"""`python -m repro.lab`: make one experiment. Other options show the trigger table, or a relative of the crash, or what
is not sglang."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from repro.lab import lifted
from repro.lab.cases import command as cases
from repro.lab.evidence.in_order import Order
from repro.lab.lifted import bisect, replay, request
from repro.lab.lifted.experiment import TRANSPORTS
from repro.lab.lifted.fault import Fault
from repro.lab.lifted.pool import pool
from repro.lab.lifted.why import why
from repro.lab.machine import preflight
from repro.lab.pictures.trace import trace
from repro.lab.places import ROOT
from repro.lab.refused import Refused
from repro.lab.releases import NEWEST, OLDEST
from repro.lab.terminal import OneLineParser, aligned, command, count
from repro.lab.trigger_table import HEADS, measured
from repro.lab.upstream import source, standin_data, standin_receiver, standins
from repro.lab.upstream.plugs import Fix, Prepare
from repro.lab.upstream.release import Release

LIMIT = 60.0  # seconds for one experiment: far more than it needs, because the machine may be busy


@command
def main(words: Sequence[str] | None = None, fixes: Mapping[str, Fix] | None = None, prog: str = "repro.lab") -> int:
    """Returns 0 if the experiment was made, whatever its outcome. Returns 1 if a row of --when differs, or if a replay
    made other events. Returns 2 for bad usage or a missing part, 130 after Ctrl-C.

    `fixes` maps the names that --fix accepts to fixes. `prog` is the module that the user has called.
    """
    try:
        arguments = parse(words, fixes or {}, prog)
        if arguments.explain:
            print("\n".join(explain(Release.of(arguments.release))))
        elif arguments.case is not None:
            print(cases.answer(arguments.case, as_json=arguments.json, picture=arguments.picture))
        elif arguments.when:
            return when(engine=not arguments.quick, as_json=arguments.json)
        elif arguments.bisect:
            bisected(arguments)
        elif arguments.replay is not None:
            return replayed(arguments, fixes or {}, prog)
        else:
            experiment(arguments)
    except Refused as refusal:
        print(f"{prog}: {refusal}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def experiment(arguments: Namespace) -> None:
    """Make one experiment and print it. Raises Refused if it cannot be made."""
    # First: is there such a release, and can the fix be plugged into it?
    Release.of(arguments.release).manager(lifted.as_fix(arguments.fix))
    if arguments.trace:
        preflight.require_writable(arguments.trace, "--trace")
    result = made(arguments)
    if arguments.trace:
        preflight.write(arguments.trace, json.dumps(trace(result.events, labels=result.labels)), "--trace")
    if arguments.json:
        sends = [vars(send) for send in result.sends]
        token = str(replay.token(arguments.words, result.verdict.release, result.events))
        more = {"sends": sends, "faults": result.faults(), "token": token}
        print(json.dumps({**result.verdict.as_dict(), **more}, indent=2))
    else:
        causes = why(result) if arguments.why else []
        print("\n".join(told(result, events=arguments.events)))
        if causes:
            print("why, the last cause first:")
            print("\n".join(aligned([("", cause.where, cause.what) for cause in causes])))


def made(arguments: Namespace, release: str = "", order: Order = ()) -> lifted.Run:
    """Make the experiment that the command line describes, and return the run. `release` replaces the command line's
    release. `order` is a recorded order of acts. Raises Refused if the experiment cannot be made."""
    if not arguments.anyway:
        require_room(arguments)
    pool.warm_up()  # imports torch in another process, while this one imports it for the requests
    return lifted.run(
        requests(arguments),
        n=arguments.n,
        release=release or arguments.release,
        fix=arguments.fix,
        transport=arguments.transport,
        ranks=arguments.ranks,
        barrier=not arguments.no_barrier,
        late=arguments.late,
        fault=arguments.fault,
        order=order,
        timeout=LIMIT,
    )


def bisected(arguments: Namespace) -> None:
    """Make the experiment on every release, and print one line as soon as a release is tried. Then print the first bad
    release, and the first good release after it."""
    found = []
    for each in bisect.tried(lambda release: made(arguments, release)):
        found.append(each)
        if not arguments.json:
            print(f"{each.release:<13} {each.outcome:<9} {each.first or 'no fault'}", flush=True)
    turns = bisect.turns(found)
    print(
        json.dumps({"releases": list(map(vars, found)), "turns": turns}, indent=2)
        if arguments.json
        else "\n".join(turns)
    )


def replayed(arguments: Namespace, fixes: Mapping[str, Fix], prog: str) -> int:
    """Make the experiment of a token again, in the same order, and print whether the same happened to names. Returns 0
    if so, else 1."""
    token = replay.Token.parse(arguments.replay)
    result = made(parse(token.words, fixes, prog), order=token.order)
    print(f"$ python -m {prog} {' '.join(token.words)}")
    print("\n".join(told(result, events=arguments.events)))
    same = replay.digest(result.events) == token.digest
    print("the same events, in the same order" if same else "not the same events: they could not come in that order")
    return int(not same)


def requests(arguments: Namespace) -> list[Any]:
    """The requests that the command line describes, one for each prompt."""
    return [
        request.make_request(
            arguments.feature,
            items=arguments.items,
            rid=f"request-{i}",
            seed=100 * i,
            shape=request.shape_of(arguments.size),
        )
        for i in range(arguments.prompts)
    ]


def require_room(arguments: Namespace) -> None:
    """Raise Refused unless memory has room for the features, and /dev/shm has room for all their segments: without a
    fix one segment for each item, with a fix one segment for each item of each send."""
    features = request.bytes_of(arguments.size) * arguments.items * arguments.prompts * (arguments.feature != "text")
    sends = arguments.n + 1 if arguments.fix else 1
    in_shm = features * sends if arguments.transport == "shm" else 0
    preflight.require_room(4 * features, in_shm, "give smaller --size, --n, --items or --prompts; or --anyway")


def told(result: lifted.Run, *, events: bool) -> Iterator[str]:
    """A run as lines for people: its sends with their names, the error, the `events` if they are asked for, and the
    faults."""
    verdict = result.verdict
    yield f"sglang {verdict.release} in the lab, n = {verdict.n}: {verdict.outcome}"
    for send in result.sends:
        state = "error 500" if send.failed else {True: "intact", False: "DAMAGED", None: "no answer"}[send.intact]
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
    yield from (f"note: {note}" for note in result.notes)
    if verdict.missing:
        yield f"note: {verdict.missing} events are missing in the record: they could not be written"


def when(*, engine: bool, as_json: bool) -> int:
    """Print the trigger table, each row as soon as it is measured. Returns 1 if a row differs from the known result,
    else 0."""
    rows = []
    if not as_json:
        print(_line(HEADS))
    for row in measured(engine=engine):
        rows.append(row.as_dict())
        if not as_json:
            print(_line(row.cells) + "  <- DIFFERS" * row.differs, flush=True)
    if as_json:
        print(json.dumps(rows, indent=2))
    return int(any(row["differs"] for row in rows))


def _line(cells: Sequence[str]) -> str:
    """A row with fixed widths: each row is printed before the next one is measured."""
    widths = 46, 9, 9, 8
    return " ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)), cells[-1]]).rstrip()


def explain(of: Release) -> Iterator[str]:
    """Lines that say what is lifted from a release (file, line, name), and what stands in for the rest of sglang."""
    parts = [part for part in (of.mm_utils, of.tokenizer_manager, of.receiver) if part]
    yield f"lifted from sglang {of.name}, as released:"
    for part in parts:
        lines = sorted(part.lines.items(), key=lambda entry: entry[1])
        yield from (f"  {part.source.path.name}:{line:<5} {name}" for name, line in lines)
    used = {name for part in parts for name in part.given}
    stand_ins = standins.of_modules()
    yield "passed in, the real thing:"
    yield f"  {', '.join(sorted(used - set(stand_ins)))}"
    yield f"passed in, NOT sglang ({', '.join(map(_file, (standins, standin_data, standin_receiver)))}):"
    yield from aligned([("", name, standin.why) for name, standin in stand_ins.items() if name in used])
    from repro.lab.lifted import scheduler_side

    yield f"and the scheduler's loop ({_file(scheduler_side)}): receive, unwrap, compare the bytes, answer; no model"


def _file(module: Any) -> str:
    return module.__file__.removeprefix(f"{ROOT}/")


def fix_of(text: str, fixes: Mapping[str, Fix]) -> Fix | Prepare:
    """For argparse: a fix that is known by its name, or the function or design at `module:attribute`."""
    if text in fixes:
        return fixes[text]
    module, colon, attribute = text.partition(":")
    try:
        if not colon:
            raise ValueError("it is not known by that name")
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        known = f"give one of {', '.join(fixes)}, or module:attribute" if fixes else "give module:attribute"
        raise argparse.ArgumentTypeError(f"no fix {text!r} ({error}): {known}") from None


def fault_of(text: str) -> Fault:
    """For argparse: the fault that `text` describes, such as `kill@open:2`."""
    try:
        return Fault.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid: {error}") from None


def seconds(text: str) -> float:
    """For argparse: a number of seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid: give seconds, 0 or more")
    return value


def parse(words: Sequence[str] | None, fixes: Mapping[str, Fix], prog: str) -> Namespace:
    """The parsed command line. Raises Refused, with one line, for bad usage; argparse would print its usage and
    exit."""
    parser = OneLineParser(prog=f"python -m {prog}", description=__doc__)
    parser.add_argument("--n", type=count, default=2, help="how many samples (default: %(default)s)")
    parser.add_argument("--release", default=source.INSTALLED, help=f"{OLDEST} to {NEWEST}, or installed")
    parser.add_argument("--feature", choices=request.FEATURES, default="tensor", help="what the item holds")
    parser.add_argument("--size", type=count, default=112, metavar="PIXELS", help="an image's side (default: 112)")
    parser.add_argument("--items", type=count, default=1, help="how many items a prompt has")
    parser.add_argument("--prompts", type=count, default=1, help="how many prompts the batch has")
    parser.add_argument("--transport", choices=TRANSPORTS, default="shm")
    parser.add_argument("--ranks", type=count, default=1, help="how many tensor-parallel ranks")
    parser.add_argument("--no-barrier", action="store_true", help="let rank 0 unwrap before the others open ...")
    parser.add_argument("--late", type=seconds, default=0.0, metavar="SECONDS", help="... after this long (default: 0)")
    known = f"{', '.join(fixes)}, or " if fixes else ""
    parser.add_argument("--fix", type=lambda text: fix_of(text, fixes), help=f"{known}module:attribute")
    parser.add_argument("--fault", type=fault_of, help="what goes wrong: kill@open:2, fail:1, cancel:0, ...")
    parser.add_argument("--anyway", action="store_true", help="do not look whether /dev/shm has room")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--events", action="store_true", help="print who created, opened, unlinked what, and when")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write the events for Perfetto or about:tracing")
    parser.add_argument("--explain", action="store_true", help="print what is lifted and what is not sglang")
    parser.add_argument("--when", action="store_true", help="measure the trigger table")
    parser.add_argument("--why", action="store_true", help="from a failed open back to its cause, with file and line")
    parser.add_argument(
        "--bisect", action="store_true", help="the same experiment on every release: the first bad one, the first good"
    )
    parser.add_argument("--replay", metavar="TOKEN", help="make an experiment again, by the token that --json printed")
    parser.add_argument("--quick", action="store_true", help="with --when: leave out the rows that boot the engine")
    parser.add_argument("--case", nargs="?", const=cases.LIST, metavar="NAME", help="make a relative of the crash")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="with --case: write the lanes as SVG")
    arguments = parser.parse_args(words)
    _require_nothing_else(arguments, parser)
    arguments.words = list(sys.argv[1:] if words is None else words)
    return arguments


def _require_nothing_else(arguments: Namespace, parser: OneLineParser) -> None:
    """Raise Refused for an option that has no effect with --case, and for --picture without --case."""
    given = [name for name, value in vars(arguments).items() if value != parser.get_default(name)]
    others = [name for name in given if name not in ("case", "json", "picture")]
    if arguments.case is not None and others:
        raise Refused(f"--case takes no --{others[0].replace('_', '-')}", "give --json or --picture FILE with it")
    if arguments.picture and arguments.case is None:
        raise Refused("--picture belongs to --case", "give --case NAME, too")


if __name__ == "__main__":
    sys.exit(main())
