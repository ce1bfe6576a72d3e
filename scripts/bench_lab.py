"""How fast the lab is: its start, an experiment, and an experiment after a crash; and the time of one send's dispatch
as a ratio to a fresh segment.

`python -m scripts.bench_lab [--rounds N]`. Everything is measured in one run. "A fresh segment" is the time of one
first write of the same bytes into a fresh segment.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from fixed.clinic.prices import fresh_segment
from fixed.detach import detach
from repro.lab.terminal import OneLineParser, command

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 300.0  # seconds for a fresh Python
LAB = "from repro.lab.lifted.experiment import run; run(n=2)"


def fresh(code: str) -> float:
    """Run `code` in a fresh Python, and return the seconds."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"if __name__ == '__main__': {code}"], cwd=ROOT, check=True, timeout=LIMIT)
    return time.perf_counter() - began


def milliseconds(**knobs) -> float:
    """Run one experiment with these arguments, and return its milliseconds."""
    from repro.lab.lifted import run

    began = time.perf_counter()
    run(**knobs)
    return 1e3 * (time.perf_counter() - began)


@command
def main() -> None:
    """Measure and print."""
    parser = OneLineParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    from repro.lab.lifted import run
    from repro.lab.lifted.request import make_request, shape_of

    torch_alone = min(fresh("import torch") for _ in range(rounds))
    lab = min(fresh(LAB) for _ in range(rounds))
    print(f"a fresh Python, to the end of the first experiment: {lab:.1f} s; import torch alone: {torch_alone:.1f} s")
    print(f"  difference {lab - torch_alone:.1f} s (goal 1 s)")
    run(n=2, fix=detach)
    small = [milliseconds(request=make_request(shape=(4, 8)), n=2, fix=detach) for _ in range(10 * rounds)]
    print(f"one experiment, n = 2, small feature: median {statistics.median(small):.1f} ms (goal 20 ms)")
    after = []
    for _ in range(4 * rounds):
        run(make_request(shape=(4, 8)), n=2)
        after.append(milliseconds(request=make_request(shape=(4, 8)), n=2, fix=detach))
    extra = statistics.median(after) - statistics.median(small)
    print(f"the experiment after a crash: median {statistics.median(after):.1f} ms, {extra:.1f} ms more (goal 100 ms)")
    for side in (112, 1536):
        request = make_request(shape=shape_of(side))
        tensor = request.mm_inputs.mm_items[0].feature
        writes, dispatches = [], []
        for _ in range(rounds):
            writes.append(fresh_segment(tensor))
            dispatches += [send.seconds for send in run(request, n=2, fix=detach).sends]
        ratio = statistics.median(dispatches) / statistics.median(writes)
        size = tensor.numel() * tensor.element_size() / 1e6
        spent = 1e3 * statistics.median(dispatches)
        print(f"dispatch of one send, {size:.1f} MB: {spent:.2f} ms, {ratio:.2f} of a fresh segment")


if __name__ == "__main__":
    sys.exit(main())
