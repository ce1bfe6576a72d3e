"""The clinic's command: its page shows its table, its rows are complete, and its goals are counted right.
`tests/test_designs.py` checks the results for each design. No test checks times, because other programs share this
machine."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import re
from argparse import Namespace

import pytest

from fixed.clinic import __main__ as command
from fixed.clinic import chart, charts, ends, goals, table
from fixed.clinic.battery import Health
from fixed.clinic.measure import NS, SIZES, Row, code_lines
from fixed.clinic.prices import Price, between, shm_peak
from fixed.designs import DESIGNS, WARM_SEGMENTS, Design, pure_wrap
from fixed.lab import FIXES
from fixed.mutants import AS_RELEASED, MUTANTS
from repro.lab import __main__ as lab
from repro.lab.lifted import make_request, run
from repro.lab.teaching import transcript
from scripts import readme
from tests import machine

PAGE = (machine.ROOT / "docs" / "clinic.md").read_text(encoding="utf-8")
COMMAND = "python -m fixed.clinic --chart notebooks/pictures/clinic.svg"
FIELDS = "design n size correct crashed leaked dispatch_ms floor_ms fresh_ms bytes_copied shm_peak_bytes".split()
LINKED = ("one_segment_many_names", "warm_segments")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The page's command with a smaller price list. Neither n nor the size changes the other columns."""
    drawing = tmp_path_factory.mktemp("chart") / "clinic.svg"
    run = machine.command("-m", "fixed.clinic", "--n", 2, 8, "--size", 56, 112, "--chart", drawing)
    return run, drawing.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rows():
    """What `--json` prints, with less to measure."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = command.examine(Namespace(n=[2, 4], size=[112], quick=True, json=True, chart=None))
    assert status == 0
    return json.loads(printed.getvalue())


def test_the_page_shows_what_it_prints(whole):
    """The table of what is right and what is left, word by word; the prices' rows, and the goals, by their names."""
    run, _ = whole
    assert (run.returncode, run.stderr) == (0, "")
    shown, now = (told.split("\n\n") for told in (readme.blocks(PAGE)[COMMAND], run.stdout))
    health, prices, *rest = (transcript.without_measurements(part) for part in shown)
    assert health == transcript.without_measurements(now[0])
    assert prices.splitlines()[0] == transcript.without_measurements(now[1]).splitlines()[0]
    rows = [tuple(line.split()[:3]) for line in prices.splitlines()[1:-2]]
    assert rows == [(design.name, str(n), str(size)) for size in SIZES for n in NS for design in DESIGNS]
    told = {_goal(line) for part in now[2:] for line in part.splitlines()}
    assert told <= {_goal(line) for part in rest for line in part.splitlines()}


def _goal(line: str) -> str:
    """A line about a goal or a speed, without the run that it was measured in and without what was measured."""
    told = re.sub(r"n = \d+, \d+ x \d+", "n = _, _ x _", transcript.without_measurements(line))
    return re.sub(r"^\d+ \d+ ", "_ _ ", " ".join(told.split()))


def test_only_the_linked_designs_leave_nothing_and_need_little_room(whole):
    """The names that are left after success, a failed send, a client that went away, a killed scheduler and a killed
    server; and the outcome with a /dev/shm of 64 MB, if this machine allows one."""
    found = {line.split()[0]: line.split()[3:] for line in whole[0].stdout.splitlines()[1 : 2 + len(DESIGNS)]}
    assert [design.name for design in DESIGNS if found[design.name][:5] == ["0"] * 5] == list(LINKED)
    assert found["copies_at_both_points"][:6] in (["0", "4", "0", "0", "3", room] for room in ("SIGBUS", "-"))
    assert all(found[linked][5] in ("8", "-") for linked in LINKED)  # answers


def test_a_stale_table_is_noticed():
    shown = readme.blocks(PAGE)[COMMAND]
    for old, new in [("SIGBUS", "8 answers"), ("crash", "yes"), ("one_segment_many_names", "two_segments")]:
        assert transcript.without_measurements(shown.replace(old, new)) != transcript.without_measurements(shown)


def test_the_charts_say_what_they_draw(whole):
    kept = (machine.ROOT / "notebooks/pictures/clinic.svg").read_text(encoding="utf-8")
    for svg, n in ((whole[1], 8), (kept, 32)):
        described = re.search("<desc>(.*?)</desc>", svg, re.DOTALL)[1]
        assert all(f"{design.name}, n = {n}" in described for design in DESIGNS)
        assert "floor: " in described
        assert "a fresh segment: " in described


def test_no_two_lines_of_a_chart_look_alike():
    looks = list(zip(charts.DASHES, charts.MARKS, strict=True))
    assert len(set(looks)) == len(looks) >= len(DESIGNS)


def test_every_design_and_every_mutant_has_its_rows(rows):
    assert all(field in row for row in rows for field in FIELDS)
    healthy = [(row["design"], row["n"]) for row in rows if row["correct"]]
    assert healthy == [(design.name, n) for design in DESIGNS for n in (2, 4)]
    assert {row["design"] for row in rows if row["crashed"]} == {design.name for design in (AS_RELEASED, *MUTANTS)}


def test_prices_that_do_not_depend_on_the_day(rows):
    """Upstream's fix copies the feature once for every send, a deep copy twice. The linked designs and the reference
    count write the feature once. A segment that is kept for the next request counts in the peak."""
    copies = {(row["design"], row["n"]): row["bytes_copied"] / row["feature_bytes"] for row in rows if row["correct"]}
    for n in (2, 4):
        assert round(copies["copies_at_both_points", n], 1) == round(copies["pure_wrap", n], 1) == n + 1
        assert round(copies["deepcopy", n], 1) == 2 * (n + 1)
        assert [round(copies[name, n], 1) for name in (*LINKED, "reference_count")] == [1, 1, 1]
    peaks = {
        row["design"]: row["shm_peak_bytes"] / row["feature_bytes"] for row in rows if row["n"] == 4 and row["correct"]
    }
    assert all(1 <= peaks[linked] <= 1.02 for linked in LINKED)
    assert all(min(row["dispatch_ms"], row["floor_ms"], row["fresh_ms"]) > 0 for row in rows if row["correct"])


def test_what_is_kept_for_the_next_request_counts_in_the_peak():
    """Two images of two sizes: the segment of the first one is kept while the second one is sent."""
    sizes = []
    for shape in ((8, 16), (16, 16)):
        request = make_request(shape=shape)
        sizes.append(request.mm_inputs.mm_items[0].feature.nbytes)
        result = run(request, n=2, fix=WARM_SEGMENTS)
    assert shm_peak(result) == sum(sizes)
    WARM_SEGMENTS.drain()


def test_each_design_that_removes_its_names_ends_alone(monkeypatch):
    """Otherwise the hook of one design would remove the names that another one leaves."""
    asked = []
    monkeypatch.setattr(
        ends, "leaked_in_a_process", lambda _, designs: asked.append(designs) or dict.fromkeys(designs, 0)
    )
    assert set(ends.leaked("exits")) == {design.name for design in ends.ALL}
    assert [names for names in asked if len(names) == 1] == [[linked] for linked in LINKED]


def test_what_a_design_changes(rows):
    changed = {row["design"]: (row["places"], row["scheduler_touched"]) for row in rows}
    assert changed["copies_at_both_points"] == (2, False)
    assert changed["pure_wrap"] == (1, False)
    assert {changed[linked] for linked in LINKED} == {(5, False)}
    lines = {row["design"]: row["lines"] for row in rows}
    assert 0 < lines["copies_at_both_points"] < lines["pure_wrap"] < lines["one_segment_many_names"]


def test_a_design_of_the_schedulers_would_be_said_to_be():
    design = Design("mine", hooks={"sglang.srt.managers.mm_utils.ShmPointerMMData.materialize": print})
    assert design.of_the_scheduler == ["managers.mm_utils.ShmPointerMMData.materialize"]


def test_code_lines_are_those_of_code():
    assert (
        code_lines(
            '"""Words."""\nimport os\n\n# more\nx = (\n    1\n)\ndef f():\n    """Words."""\n    return lambda: x\n'
        )
        == 3
    )
    assert code_lines(inspect.getsource(pure_wrap)) == 3


def priced(name: str, n: int, size: int, milliseconds: float, shm_peak_bytes: int = 1000, **health) -> Row:
    paid = Price(n, size, milliseconds, 1.0, 10.0, 1000, shm_peak_bytes, 1000)
    return Row(Design(name, owner="somebody"), n, size, Health(**health), paid)


def test_goals_that_are_missed_are_said_to_be():
    ours, theirs = "one_segment_many_names", "copies_at_both_points"
    good = [
        priced(ours, 2, 224, 1),
        priced(theirs, 2, 224, 2),
        priced(ours, 32, 1536, 12),
        priced(theirs, 32, 1536, 400),
    ]
    assert [" reached " in line for line in goals(good)[:4]] == [True] * 4
    bad = [priced(ours, 2, 224, 3), priced(theirs, 2, 224, 2), priced(ours, 32, 1536, 20, shm_peak_bytes=1100)]
    said = goals([*bad, priced(theirs, 32, 1536, 400)])
    assert [" MISSED " in line for line in said[:4]] == [True] * 4
    assert "1/20 of upstream's" in said[1]
    assert [line.split("  ")[0] for line in goals([priced(ours, 4, 112, 1)])[:1]] == ["peak in /dev/shm, any n"]
    assert goals([]) == []


def test_growth_is_per_further_sample():
    few, many = (Price(n, 112, n * 0.5, 1.0, 1.0, n * 600, 0, 0) for n in (2, 256))
    grown = between(few, many)
    assert (grown.microseconds, grown.bytes) == (500.0, 600.0)
    assert [" MISSED " in line for line in goals([], grown)] == [True, False]


def test_the_table_says_what_is_wrong():
    told = table([priced("mine", 2, 112, 1.0, wrong=["all of it"], mutates=True, leaked={"success": 7})])
    assert re.search(r"^mine +NO +mutated +7 ", told, re.MULTILINE)


def test_nothing_priced_is_nothing_to_draw():
    with pytest.raises(ValueError, match="nothing to draw"):
        chart([Row(Design("mine"), 2, 112, Health(crashed="FileNotFoundError"))])


def test_a_battery_that_finds_a_mutant_right_is_status_1(monkeypatch, capsys):
    arguments = Namespace(n=[2], size=[112], quick=True, json=True, chart=None)
    for wrong in (
        Row(Design("pure_wrap"), 2, 112, Health(crashed="FileNotFoundError")),
        priced("the_holder_only", 2, 112, 1),
    ):
        monkeypatch.setattr(command, "measured", lambda *_, wrong=wrong, **__: [wrong])
        assert command.examine(arguments) == 1


@pytest.mark.parametrize(
    "words",
    [["--n", "0"], ["--size", "x"], ["--n", "9", "--size", "99999"], ["--chart", "/no/such/folder/c.svg"], ["--what"]],
)
def test_bad_usage(words):
    run = machine.command("-m", "fixed.clinic", *words)
    assert (run.returncode, run.stdout, len(run.stderr.splitlines())) == (2, "", 1)
    assert words[-1] in run.stderr


def test_the_lab_takes_a_designs_name():
    told = list(lab.told(run(n=3, fix=FIXES["one_segment_many_names"]), events=True))
    assert told[-1] == "faults: none"
    assert sum(" link " in line for line in told) == 3
    assert set(FIXES) == {"detach", *(design.name for design in DESIGNS)}
