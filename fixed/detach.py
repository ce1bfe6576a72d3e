"""The fix of #24231, at the two expansion points, through one helper.

Upstream copies `mm_inputs` and its items twice, inline; its reviewer asked for one helper instead, and this is it.
`apply()` gives the running process a rewritten `TokenizerManager._handle_batch_request`: the installed function, in
which both `copy.copy(tokenized_objs[i])` stand inside `detach(...)`. Nothing on disk is changed, no line is moved,
so tracebacks and debuggers still point at upstream's lines.

`python -m fixed.detach --diff` prints the rewriting as a unified diff.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fixed.designs.copies_at_both_points import detach
from repro.lab.evidence.verdict import Refused
from repro.lab.upstream.expansion import FUNCTION, expansion_points, find_function, with_call_around

MODULE = "sglang.srt.managers.tokenizer_manager"


def apply(helper: Callable[[Any], Any] = detach) -> None:
    """Fix this process: from now on `helper` is applied to every request copied at an expansion point.

    Raises Refused if the installed release has not exactly two expansion points that share their items.
    """
    module = importlib.import_module(MODULE)
    path = Path(module.__file__)
    function = find_function(rewritten(path.read_text(), str(path)))
    namespace = vars(module)  # the rewritten function lives where the installed one does, with one name more
    namespace[detach.__name__] = helper
    made: dict[str, Any] = {}
    exec(compile(ast.Module([function], []), str(path), "exec"), namespace, made)
    setattr(module.TokenizerManager, FUNCTION, made[FUNCTION])


def rewritten(source: str, path: str) -> str:
    """`source`, a release's tokenizer_manager.py, with `detach(...)` around the copy at both expansion points.

    Raises Refused, naming `path`, if there are not exactly two.
    """
    points = expansion_points(source)
    if len(points) != 2:
        raise Refused(
            f"{path} has {len(points)} expansion points that share their items, not 2: this release is already fixed, "
            "or has no parallel sampling; the fix is for 0.5.9 to 0.5.12.post1"
        )
    return with_call_around(source, points, detach.__name__)


def installed() -> Path:
    """The installed tokenizer_manager.py, found without importing sglang. Raises Refused if there is none."""
    spec = importlib.util.find_spec("sglang")
    if spec is None:
        raise Refused(f"{sys.executable} has no sglang: run `make demo`, or use .venv/bin/python")
    return Path(spec.submodule_search_locations[0], *MODULE.split(".")[1:]).with_suffix(".py")


def diff(path: Path) -> str:
    """The unified diff between the `_handle_batch_request` in the file at `path` and the rewritten one."""
    source = path.read_text()
    shown = "/".join(path.parts[-4:])
    before, after = source.splitlines(keepends=True), rewritten(source, str(path)).splitlines(keepends=True)
    return "".join(difflib.unified_diff(before, after, f"installed/{shown}", f"rewritten/{shown}", n=1))


def main() -> int:
    """The command line: `python -m fixed.detach --diff`."""
    parser = argparse.ArgumentParser(prog="python -m fixed.detach", description="The fix of #24231 in one helper.")
    parser.add_argument("--diff", action="store_true", required=True, help="print what the fix changes")
    parser.parse_args()
    try:
        print(diff(installed()), end="")
    except Refused as refusal:
        print(f"fixed.detach: {refusal}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
