"""The settings of an experiment, and the faults that it can inject."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from fixed.detach import detach
from repro.lab.lifted import Fault, run, small_shm
from repro.lab.refused import Refused


@pytest.mark.parametrize("knobs", [dict(transport="default"), dict(skip_tokenizer_init=True)])
def test_inline_transport_makes_no_names(knobs):
    result = run(n=3, **knobs)
    assert (result.verdict.outcome, result.names, result.mutated) == ("survived", [], False)


def test_several_ranks_with_the_barrier_and_without():
    assert run(n=1, ranks=2).verdict.outcome == "survived"
    race = run(n=1, ranks=2, barrier=False, late=1.0)
    assert race.verdict.error == "FileNotFoundError"
    ends = [(event.role, event.what) for event in race.events if event.what in ("unlink", "open failed")]
    assert ends == [("scheduler", "unlink"), ("scheduler 1", "open failed")]


@pytest.mark.parametrize(("moment", "left"), [("create", 1), ("send", 1), ("open", 1), ("clone", 1), ("unlink", 0)])
def test_a_consumer_that_dies(moment, left):
    result = run(n=1, fault=Fault("kill", at=moment))
    assert (result.verdict.outcome, result.verdict.error) == ("crashed", "scheduler killed by SIGKILL")
    assert len(result.verdict.leftovers.segments) == left
    assert result.verdict.leftovers.remaining == []


def test_a_send_that_fails_after_it_was_wrapped_leaks_upstream():
    result = run(n=2, fix=detach, fault=Fault("fail", send=1))
    assert (result.verdict.outcome, result.verdict.error) == ("refused", "ZMQError")
    assert any("was left in /dev/shm" in fault for fault in result.faults())


def test_a_consumer_that_never_answers_is_a_hang():
    assert run(n=1, ranks=2, late=2.0, timeout=0.5).verdict.outcome == "hung"


@pytest.mark.long
def test_a_small_shm_kills_upstreams_fix_with_sigbus():
    try:
        arguments = ["--n", "8", "--items", "40", "--fix", "fixed.detach:detach"]
        slow = ["--ranks", "2", "--late", "2"]  # consumers that take their time, so that segments pile up
        with ThreadPoolExecutor(2) as two:
            dying = two.submit(small_shm.lab, [*arguments, *slow], mebibytes=24)
            enough = small_shm.lab(arguments, mebibytes=256)
            little = dying.result()
        assert little.error == "tokenizer killed by SIGBUS"
        assert enough.outcome == "survived"
    except Refused as refusal:
        pytest.skip(str(refusal))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (dict(n=0), "n = 0"),
        (dict(ranks=0), "ranks = 0"),
        (dict(late=float("nan")), "late = nan"),
        (dict(transport="pigeon"), "transport = 'pigeon'"),
    ],
)
def test_a_wrong_field_is_a_value_error(wrong, told):
    with pytest.raises(ValueError, match=f"{told} is not possible: give"):
        run(**wrong)


@pytest.mark.parametrize("words", ["kill@never:0", "explode", "fail@open:1", "kill@open:-1", "kill@open:x"])
def test_a_fault_that_is_not_possible_is_a_value_error(words):
    with pytest.raises(ValueError, match=r"not possible|not a fault|not the number"):
        Fault.parse(words)


@pytest.mark.parametrize("words", ["kill@open:2", "kill@create:0", "fail@send:1", "cancel@answer:0"])
def test_a_fault_is_the_same_in_words(words):
    assert str(Fault.parse(words)) == words


def test_damaged_bytes_are_noticed():
    def damage(request):
        detach(request)
        for item in request.items():
            item.feature = item.feature + 1
        return request

    result = run(n=2, fix=damage)
    assert [send.intact for send in result.sends] == [False, False, False]
    assert "warm-up did not arrive intact" in result.faults()
