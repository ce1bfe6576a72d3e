"""Why a run crashed: the steps from the failed open back to the item that two sends share. Each step names its place in
the code."""

from __future__ import annotations

from dataclasses import dataclass

from repro.lab.evidence.event import Event
from repro.lab.lifted.experiment import Run
from repro.lab.refused import Refused
from repro.lab.upstream import expansion
from repro.lab.upstream.release import Release


@dataclass(frozen=True)
class Cause:
    """One step back: what happened, and where (`file:line function`)."""

    what: str
    where: str


def why(run: Run) -> list[Cause]:
    """The causes of a run's crash, the last cause first. Raises Refused if no open of a name of this run has failed."""
    release = Release.of(run.verdict.release)
    failed = next((event for event in run.events if event.what == "open failed"), None)
    if failed is None or not (made := _first(run, failed.name, "create", "link")):
        raise Refused("there is nothing to explain: in this run, no open of a name of its own failed")
    carried = [number for number, send in enumerate(run.sends) if failed.name in send.names]
    causes = [Cause(f"the scheduler cannot open {failed.name}, which {_label(run, failed)} carries", _where(failed))]
    if unlinked := _first(run, failed.name, "unlink"):
        causes.append(Cause(f"the name was unlinked for {_label(run, unlinked)}", _where(unlinked)))
    if opened := _first(run, failed.name, "open"):
        causes.append(Cause(f"the name was opened for {_label(run, opened)}", _where(opened)))
    for number in reversed(carried):
        causes.append(Cause(f"{run.labels[number]} was sent with this name", run.sends[number].where))
    causes.append(Cause(f"the name was made for {_label(run, made)}, with the pixels", _where(made)))
    causes.append(_wrapped(release))
    return causes + [
        Cause("the request was copied, but not its items: both copies hold the same one", place)
        for place in _copies(release)
    ]


def _first(run: Run, name: str, *what: str) -> Event | None:
    return next((event for event in run.events if event.name == name and event.what in what), None)


def _label(run: Run, event: Event) -> str:
    return "no send" if event.send is None else run.labels[event.send]


def _where(event: Event) -> str:
    return event.where or "?"


def _wrapped(release: Release) -> Cause:
    name = "wrap_shm_features"
    line = release.mm_utils.lines[name]
    what = "the pointer to the name was put into the item, in the place of the feature"
    return Cause(what, f"{release.mm_utils.source.path.name}:{line} {name}")


def _copies(release: Release) -> list[str]:
    source = release.tokenizer_manager.source
    lines = sorted(expansion.copy_lines(source.text), reverse=True)
    return [f"{source.path.name}:{line} {expansion.FUNCTION}" for line in lines]
