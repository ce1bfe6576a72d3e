"""The expansion points: the places in `_handle_batch_request` where a request is copied to be sent."""

from __future__ import annotations

import ast
from collections.abc import Collection, Sequence

from repro.lab.refused import Refused
from repro.lab.releases import AFFECTED, FIXED, LAST

FUNCTION = "_handle_batch_request"
COPIED = "tokenized_objs"


def find_function(source: str) -> ast.AsyncFunctionDef | None:
    """The definition of `_handle_batch_request` in `source`, with its line numbers, or None."""
    definitions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.AsyncFunctionDef))
    return next((node for node in definitions if node.name == FUNCTION), None)


def expansion_points(source: str) -> list[ast.Call]:
    """The calls `copy.copy(tokenized_objs[i])` in `_handle_batch_request` whose copy still shares its `mm_inputs` with
    the source request afterwards. First the warm-up's call, then the samples'."""
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


def copy_lines(source: str) -> set[int]:
    """The lines of `_handle_batch_request` on which a request is copied, with or without shared items."""
    function = find_function(source)
    assignments = [node for node in ast.walk(function) if isinstance(node, ast.Assign)] if function else []
    return {node.lineno for node in assignments if _copies_a_request(node.value)}


def wrapped(source: str, where: str, functions: Sequence[str]) -> str:
    """`source`, a release's tokenizer_manager.py, rewritten: the copy at expansion point k is inside a call of function
    k of the two `functions`. No line moves. Raises Refused, with `where`, unless there are exactly two expansion
    points."""
    points = expansion_points(source)
    if len(points) != len(functions):
        raise Refused(
            f"{where} has {len(points)} expansion points that share their items, not {len(functions)}",
            f"this release is already fixed, or has no parallel sampling; the fix is for {AFFECTED[0]} to {LAST}",
        )
    for point, function in zip(points, functions, strict=True):
        source = _with_call_around(source, point, function)
    return source


def shared_again(source: str, where: str, points: Collection[int]) -> str:
    """`source`, a fixed release's tokenizer_manager.py, without the fix at these expansion points (1: the warm-up's, 2:
    the samples'). No line moves. Raises Refused, with `where`, unless the fix is at both points."""
    function = find_function(source)
    blocks = [node.body for node in ast.walk(function) if isinstance(node, ast.For)] if function else []
    fixes = [
        statement
        for block in blocks
        if any(isinstance(other, ast.Assign) and _copies_a_request(other.value) for other in block)
        for statement in block
        if _detaches([statement])
    ]
    if len(fixes) != 2:
        raise Refused(f"{where} has the fix at {len(fixes)} expansion points, not at 2", f"give {FIXED} or later")
    lines = source.splitlines(keepends=True)
    for point, fix in enumerate(sorted(fixes, key=lambda statement: statement.lineno), start=1):
        if point in points:
            gone = range(fix.lineno - 1, fix.end_lineno)
            lines[gone.start : gone.stop] = [f"{' ' * fix.col_offset}pass\n", *["\n"] * (len(gone) - 1)]
    return "".join(lines)


def _with_call_around(source: str, call: ast.Call, function: str) -> str:
    """`source` with `function(...)` around a call. The syntax tree's columns count bytes of UTF-8."""
    lines = source.encode().splitlines(keepends=True)
    assert call.lineno == call.end_lineno, "a call over several lines"
    line, start, end = lines[call.lineno - 1], call.col_offset, call.end_col_offset
    lines[call.lineno - 1] = b"%s%s(%s)%s" % (line[:start], function.encode(), line[start:end], line[end:])
    return b"".join(lines).decode()


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
