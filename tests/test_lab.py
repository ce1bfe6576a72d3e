"""The lab, held to the engine, to ownership, to the mutants of the fix, and to endurance."""

from __future__ import annotations

import copy
import gc
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixed.detach import detach
from fixed.mutants import AS_RELEASED, MUTANTS
from repro.lab.evidence.verdict import Refused
from repro.lab.lifted import small_shm
from repro.lab.lifted.experiment import run
from repro.lab.lifted.request import make_request
from tests import machine

LAST, FIXED, CONTAINED = "0.5.12.post1", "0.5.13", "0.5.23"


def batch(prompts: int, feature: str = "tensor", **more):
    """Requests for a batch of prompts, each with pixels of its own."""
    return [make_request(feature, rid=f"request-{i}", seed=10 * i, **more) for i in range(prompts)]


@pytest.mark.parametrize(("side", "prepare"), [("repro", None), ("fixed", detach)])
def test_minimal_does_what_the_lab_does(side, prepare):
    """The cartoon's sequence of events is the lab's, with what is done to the memory left out. (The fixed lab's
    processes overlap, so each name's life is compared.)"""
    code = f"import json\nfrom {side}.minimal import run\nif __name__ == '__main__': print(json.dumps(run()))"
    cartoon = [tuple(event) for event in json.loads(machine.command("-c", code).stdout)]
    result = run(n=2, prepare=prepare)
    number = {name: f"name {i}" for i, name in enumerate(result.names, start=1)}
    events = [(event.role, event.what, number[event.name]) for event in result.events]
    lab = [event for event in events if event[1] not in ("map", "close")]
    by_name = (lambda events: sorted(events, key=lambda event: event[2])) if prepare else list
    assert by_name(cartoon) == by_name(lab)


# Ownership, not "no crash".

FEATURES = st.sampled_from(["tensor", "list", "tuple", "numpy", "precomputed_embeddings", "text"])
SHAPES = st.lists(st.integers(0, 5), min_size=1, max_size=3)
DTYPES = st.sampled_from(["float32", "float16", "bfloat16", "int64", "uint8", "bool"])


def ownership_of(release: str, prepare):
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        feature=FEATURES,
        n=st.integers(1, 5),
        prompts=st.integers(1, 3),
        items=st.integers(1, 3),
        shape=SHAPES,
        dtype=DTYPES,
    )
    def check(feature, n, prompts, items, shape, dtype):
        result = run(
            batch(prompts, feature, items=items, shape=shape, dtype=dtype), n=n, release=release, prepare=prepare
        )
        if result.verdict.outcome == "refused":  # POSIX has no segments without bytes; no release looks for that
            assert 0 in shape
            assert result.verdict.error == "ValueError"
            assert result.verdict.leftovers.remaining == []
        else:
            assert result.faults() == []
            assert len(result.verdict.answers) == n * prompts
            assert len(result.sends) == prompts * (n + (n > 1))
            assert all(send.intact for send in result.sends)

    check()


@pytest.mark.parametrize(("release", "prepare"), [(LAST, detach), (FIXED, None), (CONTAINED, None)])
def test_every_send_owns_what_it_sends(release, prepare):
    ownership_of(release, prepare)


def test_the_released_code_does_not_own_and_the_faults_say_so():
    result = run(n=2)
    name = result.names[0]
    assert result.faults() == [
        "crashed: FileNotFoundError",
        f"{name} was sent 3 times",
        "the source request was mutated",
    ]


@pytest.mark.network
def test_where_the_failure_is_contained_ownership_still_bites():
    """From 0.5.20 on a shared pointer is no dead server, so "it did not crash" would prove nothing. An item whose
    copy is itself defeats upstream's fix: the lab sees who shares what, and that the failure is another one."""
    request = make_request()
    request.mm_inputs.mm_items[0].__class__ = _SharedItem
    result = run(request, n=2, release=CONTAINED)
    assert result.verdict.error == "RuntimeError"  # materialize says it; unpickling no longer fails
    assert result.verdict.where.endswith(" materialize")
    assert any("was sent 3 times" in fault for fault in result.faults())
    assert "the source request was mutated" in result.faults()


class _SharedItem(type(make_request("numpy").mm_inputs.mm_items[0])):
    """An item whose copy is itself."""

    def __copy__(self):
        return self


# Mutants of the fix: each is wrong, each dies in its own way, each is caught.


@pytest.mark.parametrize("mutant", [AS_RELEASED, *MUTANTS], ids=lambda mutant: mutant.name)
def test_a_mutant_of_the_fix_is_caught(mutant):
    result = run(n=3, **mutant.knobs)
    failed = [event.send for event in result.events if event.what == "open failed"]
    assert failed[0] == (2 if mutant.name == "only_expansion_point_1" else 1)
    assert result.verdict.is_the_crash()
    assert result.faults()


def test_a_pure_wrap_that_is_sent_twice_is_caught():
    """Wrapping once, without mutating the source, and sending the same pointer n + 1 times is still wrong."""
    wrapped = {}

    def wrap_once(request):
        from repro.lab.upstream import standins

        if not wrapped:
            detached = detach(request)
            standins.mm_utils(LAST).wrap_shm_features(detached)
            wrapped["items"] = detached.mm_inputs.mm_items
        request.mm_inputs = copy.copy(request.mm_inputs)
        request.mm_inputs.mm_items = [copy.copy(item) for item in wrapped["items"]]
        return request

    result = run(n=2, prepare=wrap_once)
    assert result.verdict.is_the_crash()
    assert not result.mutated
    assert any("was sent 3 times" in fault for fault in result.faults())


# The knobs.


@pytest.mark.parametrize("knobs", [dict(transport="default"), dict(skip_tokenizer_init=True)])
def test_inline_transport_makes_no_names(knobs):
    result = run(n=3, **knobs)
    assert (result.verdict.outcome, result.names, result.mutated) == ("survived", [], False)


def test_several_ranks_with_the_barrier_and_without():
    assert run(n=1, ranks=2).verdict.outcome == "survived"
    race = run(n=1, ranks=2, barrier=False, late=0.2)
    assert race.verdict.error == "FileNotFoundError"
    ends = [(event.role, event.what) for event in race.events if event.what in ("unlink", "open failed")]
    assert ends == [("scheduler", "unlink"), ("scheduler 1", "open failed")]


@pytest.mark.parametrize(("moment", "left"), [("create", 1), ("send", 1), ("open", 1), ("clone", 1), ("unlink", 0)])
def test_a_consumer_that_dies(moment, left):
    result = run(n=1, die=(moment, 0))
    assert (result.verdict.outcome, result.verdict.error) == ("crashed", "scheduler killed by SIGKILL")
    assert len(result.verdict.leftovers.segments) == left
    assert result.verdict.leftovers.remaining == []


def test_a_send_that_fails_after_it_was_wrapped_leaks_upstream():
    result = run(n=2, prepare=detach, fail_send=1)
    assert (result.verdict.outcome, result.verdict.error) == ("refused", "ZMQError")
    assert any("was left in /dev/shm" in fault for fault in result.faults())


def test_a_consumer_that_never_answers_is_a_hang():
    assert run(n=1, ranks=2, late=2.0, timeout=0.5).verdict.outcome == "hung"


@pytest.mark.long
def test_a_small_shm_kills_upstreams_fix_with_sigbus():
    try:
        slow = ["--ranks", "2", "--late", "0.3"]  # consumers that take their time, so that segments pile up
        arguments = ["--n", "8", "--items", "40", "--fix", "detach", *slow]
        with ThreadPoolExecutor(2) as two:
            little, enough = two.map(lambda mebibytes: small_shm.lab(arguments, mebibytes=mebibytes), (24, 256))
        assert little.error == "tokenizer killed by SIGBUS"
        assert enough.outcome == "survived"
    except Refused as refusal:
        pytest.skip(str(refusal))


@pytest.mark.parametrize("wrong", [dict(n=0), dict(n=2, transport="pigeon"), dict(n=2, die=("never", 0))])
def test_a_wrong_knob_is_a_value_error(wrong):
    with pytest.raises(ValueError, match="see what run takes"):
        run(**wrong)


def test_damaged_bytes_are_noticed():
    def damage(request):
        detach(request)
        for item in request.items():
            item.feature = item.feature + 1
        return request

    result = run(n=2, prepare=damage)
    assert [send.intact for send in result.sends] == [False, False, False]
    assert "warm-up did not arrive intact" in result.faults()


# Two accounts of one thing.


@pytest.mark.parametrize(("n", "prepare"), [(1, None), (2, None), (2, detach), (8, detach)])
def test_the_kernel_saw_what_the_recorder_wrote(n, prepare):
    result = run(n=n, prepare=prepare)
    for name in result.names:
        written = [event.what for event in result.events if event.name == name]
        seen = [seen.what for seen in result.kernel if seen.name == name]
        assert seen.count("create") == written.count("create") == 1
        assert seen.count("open") == written.count("create") + written.count("open")  # creating opens, too
        assert seen.count("unlink") == written.count("unlink")
        assert seen[-1] == "unlink"
    assert {seen.name for seen in result.kernel} == set(result.names)


def test_the_order_of_events_is_total():
    result = run(n=4, prepare=detach)
    assert [event.at for event in result.events] == sorted(event.at for event in result.events)
    for name in result.names:
        life = [(event.role, event.what) for event in result.events if event.name == name]
        assert life == [
            ("tokenizer", "create"),
            ("tokenizer", "map"),
            ("tokenizer", "close"),
            ("scheduler", "open"),
            ("scheduler", "map"),
            ("scheduler", "close"),
            ("scheduler", "unlink"),
        ]
        assert len({event.send for event in result.events if event.name == name}) == 1


def test_two_hundred_runs_leave_nothing():
    for _ in range(2):
        run(n=2), run(n=2, prepare=detach)
    gc.collect()
    descriptors, children = len(os.listdir("/proc/self/fd")), _children()
    for number in range(200):
        prepare = detach if number % 2 else None
        outcome = run(make_request(shape=(4, 8)), n=2, prepare=prepare).verdict
        assert outcome.outcome == "survived" if prepare else outcome.is_the_crash(), number
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 1
    assert _children() <= children + 1  # the spare scheduler


def _children() -> int:
    import psutil

    return len(psutil.Process().children(recursive=True))


# The shell.


def test_one_experiment_from_a_shell():
    told = machine.command("-m", "repro.lab", "--json")
    verdict = json.loads(told.stdout)["verdict"]
    assert (told.returncode, told.stderr) == (0, "")
    assert (verdict["outcome"], verdict["errno"], verdict["n"]) == ("crashed", 2, 2)
    assert len(json.loads(told.stdout)["sends"]) == 3


def test_a_fix_from_a_shell():
    told = machine.command("-m", "repro.lab", "--n", 3, "--fix", "detach", "--events")
    assert told.returncode == 0
    assert "faults: none" in told.stdout
    assert told.stdout.count(" unlink ") == 4


def test_explain_names_what_is_lifted_and_what_is_not():
    told = machine.command("-m", "repro.lab", "--explain").stdout
    assert "TokenizerManager._handle_batch_request" in told
    assert "mm_utils.py:1526  ShmPointerMMData" in told
    assert "NOT sglang" in told
    assert "no model" in told


@pytest.mark.parametrize(
    "words", [["--n", "0"], ["--release", "0.5.99"], ["--release", "x"], ["--fix", "nothing"], ["--feature", "smell"]]
)
def test_bad_usage_of_the_lab(words):
    told = machine.command("-m", "repro.lab", *words)
    assert (told.returncode, told.stdout, len(told.stderr.splitlines())) == (2, "", 1)
    assert words[1] in told.stderr


@pytest.mark.network
def test_the_trigger_table_without_the_engine_is_as_known():
    told = machine.command("-m", "repro.lab", "--when", "--quick", "--json")
    rows = json.loads(told.stdout)
    assert told.returncode == 0, [row for row in rows if row["differs"]]
    assert len([row for row in rows if row["outcome"] != "not run"]) >= 19


def test_a_row_that_differs_is_marked():
    from repro.lab.when import Measured, Row

    assert Measured(Row("c", "survived", lambda: None), "crashed", "").differs
    assert not Measured(Row("c", "crashed", None, why="no GPU"), "not run", "no GPU").differs
