"""The fix of #24231 for the sglang of this process: one helper, applied at the two expansion points.

Upstream copies `mm_inputs` and its items inline, at two places. A reviewer asked for one helper instead. Here the
helper is `detach` (fixed/designs/detach.py). `apply()` gives this process a rewritten
`TokenizerManager._handle_batch_request`. In the rewritten function, both `copy.copy(tokenized_objs[i])` are inside
`detach(...)`. No file on disk changes, and no line moves. So tracebacks and debuggers still point at upstream's lines.

`python -m fixed.detach --diff` prints the two changed lines as a unified diff.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fixed.designs.detach import detach
from repro.lab.terminal import OneLineParser, command
from repro.lab.upstream import source
from repro.lab.upstream.expansion import FUNCTION, find_function, wrapped

MODULE = "sglang.srt.managers.tokenizer_manager"


def apply(helper: Callable[[Any], Any] = detach) -> None:
    """Fix this process: from now on, `helper` is applied to every request that is copied at an expansion point.

    Raises Refused unless the installed release has exactly two expansion points whose copies share their items.
    """
    module = importlib.import_module(MODULE)
    path = Path(module.__file__)
    function = find_function(rewritten(path.read_text(encoding="utf-8"), str(path)))
    namespace = vars(module)  # the rewritten function uses the module's own names, and one more
    namespace[detach.__name__] = helper
    made: dict[str, Any] = {}
    exec(compile(ast.Module([function], []), str(path), "exec", dont_inherit=True), namespace, made)
    setattr(module.TokenizerManager, FUNCTION, made[FUNCTION])


def rewritten(text: str, where: str) -> str:
    """Return `text`, a release's tokenizer_manager.py, with `detach(...)` around the copy at both expansion points.

    Raises Refused if there are not exactly two expansion points. The message names `where`, the file of the text.
    """
    return wrapped(text, where, [detach.__name__] * 2)


def installed() -> Path:
    """Return the path of the installed tokenizer_manager.py, which is found without importing sglang. If sglang is not
    installed, return the path of the last affected release's file. Raises Refused if that release is not available."""
    return source.read(source.INSTALLED, source.TOKENIZER_MANAGER).path


def diff(path: Path) -> str:
    """Return the unified diff between the `_handle_batch_request` in the file at `path` and the rewritten function.

    Raises Refused as `rewritten` does.
    """
    text = path.read_text(encoding="utf-8")
    shown = "/".join(path.parts[-4:])
    before, after = text.splitlines(keepends=True), rewritten(text, str(path)).splitlines(keepends=True)
    return "".join(difflib.unified_diff(before, after, f"installed/{shown}", f"rewritten/{shown}", n=1))


@command(name="fixed.detach")
def main() -> int:
    """Print the diff. Returns 0, or 2 for bad usage or a missing part."""
    parser = OneLineParser(prog="python -m fixed.detach", description="The fix of #24231, as one helper.")
    parser.add_argument("--diff", action="store_true", required=True, help="print the rewriting as a unified diff")
    parser.parse_args()
    print(diff(installed()), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
