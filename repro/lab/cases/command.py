"""What `python -m repro.lab --case` prints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repro.lab.cases.case import Case
from repro.lab.cases.found import Found
from repro.lab.cases.making import make, named
from repro.lab.cases.table import CASES
from repro.lab.machine import preflight
from repro.lab.terminal import aligned

LIST = "list"  # given instead of a case's name: list all cases


def answer(name: str, *, as_json: bool = False, picture: Path | None = None) -> str:
    """Make the case with this name, and return its result as text or as JSON. For LIST, return one line for each case.
    If `picture` is given, the lanes are written to this file as SVG. Raises Refused if there is no such case, if this
    machine cannot make it, or if the file cannot be written."""
    if name == LIST:
        what = {case.name: case.what for case in CASES.values()}
        return json.dumps(what, indent=2) if as_json else "\n".join(names())
    case = named(name)
    if picture:
        preflight.require_writable(picture, "--picture")
    found = make(name)
    if picture:
        preflight.write(picture, found.picture(), "--picture")
    return json.dumps(as_dict(case, found), indent=2) if as_json else "\n".join(told(case, found))


def names() -> Iterator[str]:
    """One line for each case: its name, and what happens."""
    return aligned([(case.name, case.what) for case in CASES.values()])


def as_dict(case: Case, found: Found) -> dict[str, Any]:
    """The verdict in the form of every `--json`, with the case and its evidence added."""
    keys = ("what", "cause", "first", "look")
    return {**found.verdict.as_dict(), "case": {key: getattr(case, key) for key in ("name", *keys)}, **_evidence(found)}


def told(case: Case, found: Found) -> Iterator[str]:
    """The result of a case as lines for people: verdict, lanes, faults, cause, and the first thing to do."""
    verdict = found.verdict
    yield f"{case.name}: {case.what}"
    yield f"sglang {verdict.release} in the lab, n = {verdict.n}"
    yield f"verdict: {verdict.outcome}" + f", {verdict.error}" * bool(verdict.error) + _message(found)
    yield ""
    yield found.text()
    yield ""
    yield from (f"fault: {fault}" for fault in found.faults[:6])
    if len(found.faults) > 6:
        yield f"fault: and {len(found.faults) - 6:,} more"
    yield from (f"somebody else unlinked {name}" for name in found.taken_by_others()[:6])
    yield from aligned([("cause", case.cause), ("first", case.first), ("look for", case.look)])


def _message(found: Found) -> str:
    where = f" at {found.verdict.where}" if found.verdict.where else ""
    return (f": {found.verdict.message}" if found.verdict.message else "") + where


def _evidence(found: Found) -> dict[str, Any]:
    told = found.as_dict()
    return {key: told[key] for key in ("faults", "labels", "names", "rooms", "kernel", "log", "listing")}
