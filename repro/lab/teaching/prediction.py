"""A reader's prediction, compared with what the run gave. No expected answer is written down anywhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

NONE = "no prediction: put yours in the place of None, and run the cells again"
RIGHT = "right: "
SEVERAL = (set, frozenset, list, tuple)
KINDS = {bool: "True or False", int: "a number", float: "a number", str: "a text", dict: "a dict"}


def told(predicted: object, actual: object) -> str:
    """One line that says whether the prediction was right. `actual` is what the run gave.

    None means that there is no prediction. Upper and lower case in a text, and the order in a collection, do not
    matter. In a dict, each key is a prediction of its own. If the prediction is of another kind than the answer (a text
    and not a number, for example), it is not compared: the line says of which kind the answer is.
    """
    if predicted is None:
        return NONE
    if isinstance(actual, Mapping):
        return _each(predicted, actual) if isinstance(predicted, Mapping) else _of_another_kind(predicted, actual)
    if _kind(predicted) != _kind(actual):
        return _of_another_kind(predicted, actual)
    if _plain(predicted) == _plain(actual):
        return f"{RIGHT}{_shown(actual)}"
    return f"not so: you said {_shown(predicted)}, it was {_shown(actual)}"


def _each(predicted: Mapping[Any, object], actual: Mapping[Any, object]) -> str:
    answered = {key: value for key, value in predicted.items() if value is not None}
    if not answered:
        return NONE
    unknown = [key for key in answered if key not in actual]
    if unknown:
        return f"no such key: {unknown[0]!r}; the keys are {', '.join(map(repr, actual))}"
    lines = {key: told(value, actual[key]) for key, value in answered.items()}
    right = sum(line.startswith(RIGHT) for line in lines.values())
    return "; ".join([f"{right} of {len(lines)} right", *(f"{key}: {line}" for key, line in lines.items())])


def _of_another_kind(predicted: object, actual: object) -> str:
    return f"not compared: you said {_shown(predicted)}, and the answer is {_kind(actual)}"


def _kind(value: object) -> str:
    """A reader's words for the kind of a value. A run may give a value of another type, such as a numpy number; then
    the words are the type's name."""
    if isinstance(value, SEVERAL):
        return "a set, such as {'one', 'another'}"
    return next((words for kind, words in KINDS.items() if isinstance(value, kind)), type(value).__name__)


def _plain(value: object) -> object:
    if isinstance(value, SEVERAL):
        return {_plain(each) for each in value}
    if isinstance(value, str):
        return " ".join(value.casefold().split())
    return value


def _shown(value: object) -> str:
    if isinstance(value, SEVERAL):
        return _listed(value)
    return str(value) if isinstance(value, bool) or not isinstance(value, (int, float)) else f"{value:,}"


def _listed(values: Collection[object]) -> str:
    return ", ".join(sorted(map(_shown, values))) or "none"
