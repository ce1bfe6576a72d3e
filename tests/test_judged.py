"""Every order as the third judge: a run's own protocol is read from its record, and every order of it is looked at."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing.shared_memory import SharedMemory
from xml.etree import ElementTree

import pytest

from fixed.clinic.battery import examine
from fixed.designs import COPIES, DESIGNS, ONE_SEGMENT, WARM_SEGMENTS, Design, shm_names
from fixed.detach import detach
from fixed.exercises.grade import grade
from fixed.mutants import AS_RELEASED, MUTANTS
from fixed.orders.judged import MOST_SENDS, judge
from fixed.orders.protocols import of_design
from fixed.orders.recorded import UNSENT, parts
from repro.lab.lifted import Fault, run
from repro.lab.places import SHM
from repro.lab.releases import FIXED, LAST
from repro.lab.teaching import grade as grades
from tests.attempts import first_item_only
from tests.batches import CONTAINED, batch

SMALL = (8, 16)
WITHOUT_POOL = [design for design in DESIGNS if not of_design(design.name).pool]  # one run uses no segment again
HOOKED = [design for design in WITHOUT_POOL if not design.prepare]  # the others act where later releases are fixed
CRASH = "a consumer cannot open"


def name(design) -> str:
    return design.name


def tidies_behind_the_consumer():
    """Before each send, it removes what the send before has left. By then nothing is left, in every run."""
    last = []

    def prepare(request):
        for item in last.pop().items() if last else []:
            if sent := getattr(item.feature, "shm_name", None):
                until = time.monotonic() + 5
                while os.path.exists(SHM / sent) and time.monotonic() < until:
                    time.sleep(0.001)
                with suppress(FileNotFoundError):
                    os.unlink(SHM / sent)
        last.append(detach(request))
        return request

    return prepare


def makes_one_too_many(request):
    """A segment that no send carries."""
    if request.mm_inputs:
        segment = SharedMemory(shm_names.new_name(), create=True, size=1)
        segment.close()
    return detach(request)


def test_the_release_is_red_with_the_shortest_order():
    result = grade(lambda request: request)
    assert (result.passed, result.verdict, result.hint) == (False, "crashed", grades.UNTOUCHED)
    assert (result.orders.verdict, result.orders.protocol) == (CRASH, "as released")
    lines = result.orders.lanes.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [str(number) for number in range(1, 12)]
    assert lines[1].split()[1:4] == ["create", "name", "1"]
    assert lines[-1].endswith("open name 1 (sample 1) fails")
    assert all(line in str(result) for line in lines)
    drawing = ElementTree.fromstring(result.orders.as_svg())
    assert drawing[0].text == f"as released: {CRASH}"


def test_one_item_that_is_not_copied_is_found_at_that_item():
    result = grade(first_item_only)
    assert (result.passed, result.case, result.orders.verdict) == (False, "two images", CRASH)
    assert [each.verdict for each in result.orders.explored] == ["right", CRASH]
    assert [each.protocol.name for each in result.orders.explored] == ["a segment a send", "as released"]


def test_a_right_fix_is_right_in_every_order():
    result = grade(detach)
    assert result.passed
    assert (result.orders.right, result.orders.verdict, result.orders.lanes) == (True, "right", "")
    assert result.orders.worst.orders > 1e9  # n = 3 and two ranks


def test_what_no_run_shows_is_red_by_its_orders_alone():
    """All sends are answered, each owns what it sends, nothing is left: only another order is wrong."""
    assert grades.grade(tidies_behind_the_consumer()).passed  # by two judges
    result = grade(tidies_behind_the_consumer())
    assert (result.passed, result.verdict, result.faults) == (False, "survived", [])
    assert (result.hint, result.orders.verdict) == (grades.OTHER_ORDER, CRASH)
    *_, send, unlink, fails = result.orders.lanes.splitlines()
    assert "send name 2 (sample 1)" in send
    assert "unlink name 2" in unlink
    assert fails.endswith("open name 2 (sample 1) fails")


def test_a_leak_is_red():
    judged = judge(run(batch(1, shape=SMALL), n=3, fix=makes_one_too_many))
    assert (judged.right, judged.verdict, judged.protocol) == (False, "names are left", UNSENT)
    assert judged.lanes.endswith("left in /dev/shm: name 1, name 2, name 3, name 4")


def test_where_nothing_is_shared_there_is_nothing_to_say():
    assert judge(run(batch(1, "numpy", items=1, shape=SMALL), n=3, fix=COPIES)) is None
    assert judge(run(batch(1, shape=SMALL), n=MOST_SENDS, fix=COPIES)) is None
    assert judge(run(batch(1, shape=SMALL), n=3, fix=COPIES, fault=Fault("fail", send=1))) is None  # it did not end


def test_without_a_third_judge_a_grade_says_nothing_of_orders():
    assert grades.grade(detach).orders is None


@pytest.mark.parametrize(
    ("design", "release"),
    [(design, LAST) for design in WITHOUT_POOL] + [(each, at) for each in HOOKED for at in (FIXED, CONTAINED)],
    ids=lambda each: getattr(each, "name", each),
)
def test_a_designs_record_is_the_protocol_that_is_written_for_it(design, release):
    """So the programs in `protocols` are what the designs do, on several releases."""
    requests = batch(2, items=2, shape=SMALL)
    found = parts(run(requests, n=3, release=release, fix=design))
    assert {part.protocol.name for part in found} == {of_design(design.name).name}
    assert len(found) == 4
    assert [part.labels for part in found[::2]] == [
        ("warm-up a", "sample 1 a", "sample 2 a", "sample 3 a"),
        ("warm-up b", "sample 1 b", "sample 2 b", "sample 3 b"),
    ]


def test_a_pools_base_name_is_not_taken_for_a_leak():
    WARM_SEGMENTS.drain()  # so that this run makes the base name
    try:
        result = run(batch(1, shape=SMALL), n=3, fix=WARM_SEGMENTS)
    finally:
        WARM_SEGMENTS.drain()
    assert judge(result).right
    assert judge(replace(result, kept=set())).verdict == "names are left"


@pytest.mark.parametrize("mutant", [AS_RELEASED, *MUTANTS], ids=name)
def test_a_mutant_is_red(mutant):
    assert examine(mutant).orders == CRASH


def test_the_battery_finds_what_its_runs_do_not_show():
    health = examine(Design("tidies", prepare=tidies_behind_the_consumer()))
    assert (health.crashed, health.wrong, health.orders, health.correct) == (None, [], CRASH, False)
    assert examine(replace(ONE_SEGMENT, name="another")).orders == "right"
