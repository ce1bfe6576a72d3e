"""Every design and every mutant, measured: a row for each design, n and size."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from fixed.clinic import exits, small
from fixed.clinic.battery import Health, examine
from fixed.clinic.prices import price
from fixed.designs import Design

NS, SIZES = (2, 8, 32), (224, 1536)


@dataclass
class Row:
    """One design with n samples of an image of `size` x `size` pixels. `leaked` is the sum of `leaks`. The prices are
    None for what crashes; `small_shm` is None where a small /dev/shm cannot be had, or was not asked for."""

    design: str
    n: int
    size: int
    correct: bool
    crashed: bool
    leaked: int
    dispatch_ms: float | None = None
    floor_ms: float | None = None
    bytes_copied: int | None = None
    shm_peak_bytes: int | None = None
    feature_bytes: int | None = None
    leaks: dict[str, int] = field(default_factory=dict)
    mutates: bool = False
    wrong: list[str] = field(default_factory=list)
    owner: str = ""
    small_shm: str | None = None
    lines: int = 0
    places: int = 0
    scheduler_touched: bool = False


def measured(
    ns: Sequence[int] = NS,
    sizes: Sequence[int] = SIZES,
    *,
    designs: Sequence[Design] = exits.ALL,
    thorough: bool = True,
    on_phase: Callable[[str], None] = lambda phase: None,
) -> list[Row]:
    """All rows. What crashes has one row only. `thorough` adds what takes processes of its own: the ends of killed
    servers, and a small /dev/shm. `on_phase` is told what is being measured."""
    leaks: dict[str, dict[str, int]] = {}
    outcomes: dict[str, str] = {}
    if thorough:
        for situation, ending in exits.SITUATIONS.items():
            on_phase(f"what is left: {situation}")
            leaks[situation] = exits.leaked(ending)
        on_phase(f"a /dev/shm of {small.MEBIBYTES} MB")
        outcomes = small.outcomes()
    rows = []
    for design in designs:
        on_phase(f"{design.name}: the battery")
        health = examine(design)
        health.leaked |= {situation: left[design.name] for situation, left in leaks.items() if design.name in left}
        for row in _priced(design, health, ns, sizes, on_phase):
            row.small_shm = outcomes.get(design.name)
            rows.append(row)
    return rows


def _priced(
    design: Design, health: Health, ns: Sequence[int], sizes: Sequence[int], on_phase: Callable[[str], None]
) -> Iterator[Row]:
    if health.crashed:
        yield _row(design, health, min(ns), min(sizes))
        return
    for size in sizes:
        for n in ns:
            on_phase(f"{design.name}: n = {n}, {size} x {size}")
            row = _row(design, health, n, size)
            if paid := price(design, n, size):
                vars(row).update(vars(paid))
            else:
                row.crashed, row.correct = True, False
            yield row


def _row(design: Design, health: Health, n: int, size: int) -> Row:
    return Row(
        design.name,
        n,
        size,
        correct=health.correct,
        crashed=bool(health.crashed),
        leaked=sum(health.leaked.values()),
        leaks=health.leaked,
        mutates=health.mutates,
        wrong=health.wrong,
        owner=design.owner,
        lines=sum(code_lines(inspect.getsource(module)) for module in design.modules),
        places=len(design.places),
        scheduler_touched=bool(design.of_the_scheduler),
    )


def code_lines(source: str) -> int:
    """How many lines of code: no docstrings, comments, imports or blank lines; each statement as `ast.unparse` writes
    it."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [each for each in body if not isinstance(each, (ast.Import, ast.ImportFrom)) and not _is_words(each)]
            node.body = kept or body
    return len([line for line in ast.unparse(tree).splitlines() if line.strip()])


def _is_words(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
