"""Tells whether a release that this plugin does not know has the functions that the plugin hooks. The release's source
is read, and not run."""

from __future__ import annotations

import ast
from pathlib import Path

MM_UTILS, TOKENIZER_MANAGER = "srt/managers/mm_utils.py", "srt/managers/tokenizer_manager.py"
COMMON = "srt/utils/common.py"
NEEDED = {  # file -> function -> its first arguments
    MM_UTILS: {
        "wrap_shm_features": ["obj"],
        "ShmPointerMMData.__init__": ["self", "tensor"],
        "ShmPointerMMData.__getstate__": ["self"],
        "ShmPointerMMData.__setstate__": ["self", "state"],
    },
    TOKENIZER_MANAGER: {
        "TokenizerManager._handle_batch_request": ["self", "obj"],
        "TokenizerManager._send_one_request": ["self"],
    },
    COMMON: {"kill_process_tree": ["parent_pid"]},
}
STATE = {"shm_name", "shape", "dtype"}  # the keys of a pickled pointer; there may be more, such as a hash


def missing(package: Path) -> list[str]:
    """Return the names of the files and functions that the package sglang in the folder `package` does not have, or has
    in another shape. The list is empty if the plugin fits."""
    found = []
    for file, needed in NEEDED.items():
        try:
            functions = _functions(ast.parse((package / file).read_text(encoding="utf-8")))
        except (OSError, SyntaxError, ValueError):
            found.append(file)
            continue
        for name, begins in needed.items():
            has = [argument.arg for argument in functions[name].args.args] if name in functions else []
            if has[: len(begins)] != begins:
                found.append(name)
        state = functions.get("ShmPointerMMData.__getstate__")
        if state and not {node.value for node in ast.walk(state) if isinstance(node, ast.Constant)} >= STATE:
            found.append("the state of ShmPointerMMData")
    return found


def _functions(tree: ast.Module) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = {node.name: node for node in tree.body if isinstance(node, kinds)}
    for holder in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        functions |= {f"{holder.name}.{node.name}": node for node in holder.body if isinstance(node, kinds)}
    return functions
