"""Draw the pictures that README and the notebooks keep, from runs made now."""

from __future__ import annotations

from pathlib import Path

from fixed.detach import detach
from repro.lab import lifted, pictures
from repro.lab.teaching import stepper

FOLDER = Path(__file__).resolve().parents[1] / "notebooks" / "pictures"


def drawn() -> dict[str, str]:
    """File name -> SVG: the crash and the fixed run in lanes, and the object graph at the moment of the mistake."""
    crash, fixed = lifted.run(n=2), lifted.run(n=2, fix=detach)
    steps = stepper.walk(n=2).steps
    mistake = next(step for step in steps if step.mutated and "_send_one_request" in step.code)
    return {
        "crash.svg": pictures.lanes(crash.events, labels=crash.labels, title="n = 2, sglang 0.5.12.post1"),
        "fixed.svg": pictures.lanes(fixed.events, labels=fixed.labels, title="n = 2, with the fix"),
        "shared.svg": pictures.graph(
            mistake.roots, mutated=mistake.mutated, title="The first sample, about to be sent"
        ),
    }


def main() -> None:
    """Write them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, svg in drawn().items():
        (FOLDER / name).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
