"""Measures every design and every mutant: a row for each design, n and size."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fixed.clinic import ends
from fixed.clinic.battery import Health, examine
from fixed.clinic.prices import Price, price
from fixed.designs import Design

NS, SIZES = (2, 8, 32), (224, 1536)


@dataclass(frozen=True)
class Row:
    """The health and the price of one design, with n samples of an image of `size` x `size` pixels. `price` is None if
    the design crashes. `small_shm` is the result in a small /dev/shm, or None if that was not measured."""

    design: Design
    n: int
    size: int
    health: Health
    price: Price | None = None
    small_shm: str | None = None

    @property
    def lines(self) -> int:
        """The number of lines of code of the design."""
        return sum(code_lines(inspect.getsource(module)) for module in self.design.modules)

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain data, for `json.dumps`. `leaks` has the names left by situation, and `leaked` is
        their sum."""
        health, prices = self.health, asdict(self.price) if self.price else dict.fromkeys(Price.__dataclass_fields__)
        return {
            "design": self.design.name,
            **prices,
            "n": self.n,
            "size": self.size,
            "correct": health.correct,
            "crashed": bool(health.crashed),
            "leaked": sum(health.leaked.values()),
            "leaks": health.leaked,
            "mutates": health.mutates,
            "wrong": health.wrong,
            "orders": health.orders,
            "owner": self.design.owner,
            "small_shm": self.small_shm,
            "lines": self.lines,
            "places": len(self.design.places),
            "scheduler_touched": bool(self.design.of_the_scheduler),
        }


def measured(
    ns: Sequence[int] = NS,
    sizes: Sequence[int] = SIZES,
    *,
    designs: Sequence[Design] = ends.ALL,
    thorough: bool = True,
    on_phase: Callable[[str], None] = lambda phase: None,
) -> list[Row]:
    """Return all rows. A design that crashes has one row only. `thorough` adds the measurements of `ends`: the names
    that killed servers leave, and a small /dev/shm. `on_phase` is told what is being measured."""
    leaks: dict[str, dict[str, int]] = {}
    outcomes: dict[str, str] = {}
    if thorough:
        for situation, ending in ends.SITUATIONS.items():
            on_phase(f"what is left: {situation}")
            leaks[situation] = ends.leaked(ending, designs)
        on_phase(f"a /dev/shm of {ends.MEBIBYTES} MB")
        outcomes = ends.in_a_small_room()
    rows = []
    for design in designs:
        on_phase(f"{design.name}: the battery")
        health = examine(design)
        health.leaked |= {situation: left[design.name] for situation, left in leaks.items()}
        rows += _priced(design, health, ns, sizes, outcomes.get(design.name), on_phase)
    return rows


def _priced(
    design: Design,
    health: Health,
    ns: Sequence[int],
    sizes: Sequence[int],
    small_shm: str | None,
    on_phase: Callable[[str], None],
) -> Iterator[Row]:
    if health.crashed:
        yield Row(design, min(ns), min(sizes), health, None, small_shm)
        return
    for size in sizes:
        for n in ns:
            on_phase(f"{design.name}: n = {n}, {size} x {size}")
            yield Row(design, n, size, health, price(design, n, size), small_shm)


def code_lines(source: str) -> int:
    """Return the number of lines of code in `source`. Docstrings, comments, imports and blank lines do not count. Each
    statement has as many lines as `ast.unparse` gives it."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [each for each in body if not isinstance(each, (ast.Import, ast.ImportFrom)) and not _is_words(each)]
            node.body = kept or body
    return len([line for line in ast.unparse(tree).splitlines() if line.strip()])


def _is_words(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
