"""The expansion points: the places in `_handle_batch_request` where a request is copied to be sent."""

from __future__ import annotations

import ast
from collections.abc import Sequence

FUNCTION = "_handle_batch_request"
COPIED = "tokenized_objs"


def find_function(source: str) -> ast.AsyncFunctionDef | None:
    """The definition of `_handle_batch_request` in `source`, with its line numbers, or None."""
    definitions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.AsyncFunctionDef))
    return next((node for node in definitions if node.name == FUNCTION), None)


def expansion_points(source: str) -> list[ast.Call]:
    """The calls `copy.copy(tokenized_objs[i])` in `_handle_batch_request` after which the copy's `mm_inputs` are
    left as they are, that is, shared with the source request. In order: the warm-up's, then the samples'."""
    function = find_function(source)
    if function is None:
        return []
    blocks = [node.body for node in ast.walk(function) if isinstance(node, ast.For)]
    points = [
        statement.value
        for block in blocks
        for statement in block
        if isinstance(statement, ast.Assign) and _copies_a_request(statement.value) and not _detaches(block)
    ]
    return sorted(points, key=lambda call: call.lineno)


def with_call_around(source: str, points: Sequence[ast.Call], function: str) -> str:
    """`source` with `function(...)` around each of `points`. No line is moved."""
    lines = source.splitlines(keepends=True)
    for copied in points:  # one line each, so columns of one do not move those of the other
        line, start, end = lines[copied.lineno - 1], copied.col_offset, copied.end_col_offset
        lines[copied.lineno - 1] = f"{line[:start]}{function}({line[start:end]}){line[end:]}"
    return "".join(lines)


def _copies_a_request(value: ast.expr) -> bool:
    """Whether `value` is `copy.copy(tokenized_objs[...])`."""
    return (
        isinstance(value, ast.Call)
        and ast.unparse(value.func) == "copy.copy"
        and isinstance(value.args[0], ast.Subscript)
        and ast.unparse(value.args[0].value) == COPIED
    )


def _detaches(block: list[ast.stmt]) -> bool:
    """Whether anything in `block` assigns to some request's `mm_inputs`, as upstream's own fix does."""
    return any(
        isinstance(target, ast.Attribute) and target.attr == "mm_inputs"
        for statement in block
        for node in ast.walk(statement)
        if isinstance(node, ast.Assign)
        for target in node.targets
    )
