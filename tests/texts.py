"""Calls that read or write text in the encoding of the user's locale."""

from __future__ import annotations

import ast
from collections.abc import Iterator

WORDS = ("text", "universal_newlines")  # of `subprocess`: decode what the child prints


def unnamed(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls in a module that open, read or write a text, or a child's output, and do not name the encoding."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_textual(node) and all(word.arg != "encoding" for word in node.keywords):
            yield node


def _is_textual(call: ast.Call) -> bool:
    if any(keyword.arg in WORDS and getattr(keyword.value, "value", None) is True for keyword in call.keywords):
        return True
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "read_text":
        return not call.args  # a distribution's read_text has an argument, and reads UTF-8
    if name == "open":
        return isinstance(call.func, ast.Name) and "b" not in _mode(call, "r")
    if name in ("fdopen", "NamedTemporaryFile", "TemporaryFile"):
        return "b" not in _mode(call, "r" if name == "fdopen" else "w+b")
    return name == "write_text"


def _mode(call: ast.Call, default: str) -> str:
    """The mode that a call of `open` gives; NamedTemporaryFile has it first."""
    told = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    place = 1 if getattr(call.func, "id", getattr(call.func, "attr", "")) in ("open", "fdopen") else 0
    told += call.args[place : place + 1]
    return told[0].value if told and isinstance(told[0], ast.Constant) else default
