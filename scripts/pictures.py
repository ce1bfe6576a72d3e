"""Draw the pictures that README, docs and the notebooks keep, from new runs and from the source."""

from __future__ import annotations

from pathlib import Path

from fixed.detach import detach
from repro.lab import lifted, pictures
from repro.lab.teaching import stepper
from scripts import house

ROOT = Path(__file__).resolve().parents[1]
RUNS, HOUSE = "notebooks/pictures", "docs"


def drawn() -> dict[str, str]:
    """Return the pictures, path -> SVG: the crash and the fixed run as lanes, the object graph at the moment of the
    mistake, and the house."""
    crash, fixed = lifted.run(n=2), lifted.run(n=2, fix=detach)
    steps = stepper.walk(n=2).steps
    mistake = next(step for step in steps if step.mutated and "_send_one_request" in step.code)
    return {
        f"{RUNS}/crash.svg": pictures.lanes(crash.events, labels=crash.labels, title="n = 2, sglang 0.5.12.post1"),
        f"{RUNS}/fixed.svg": pictures.lanes(fixed.events, labels=fixed.labels, title="n = 2, with the fix"),
        f"{RUNS}/shared.svg": pictures.graph(
            mistake.roots, mutated=mistake.mutated, title="The first sample, about to be sent"
        ),
        f"{HOUSE}/arrows.svg": house.picture(),
    }


def main() -> None:
    """Draw the pictures and write them to their files."""
    for name, svg in drawn().items():
        (ROOT / name).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
