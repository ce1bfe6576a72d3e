"""The model is what the code does: orders of the model, forced on sglang's functions between real processes."""

from __future__ import annotations

import json

import pytest

from fixed.orders import FAULTS, PROTOCOLS, Machine
from fixed.orders.covering import covering
from tests import machine

ORDERS = 40  # of about 500, by lot; `python -m fixed.orders --forced` runs all


@pytest.fixture(scope="module")
def single():
    """What was not as in the model, for each single order."""
    run = machine.command("-m", "tests.forced_orders")
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


@pytest.mark.parametrize("protocol", [one for one in PROTOCOLS if not one.pool], ids=lambda protocol: protocol.name)
def test_a_covering_set_takes_every_step(protocol):
    this = Machine(protocol, 2, 2, FAULTS)
    taken = set()
    orders = covering(this)
    for order in orders:
        state = this.initial
        for act in order:
            taken.add((state, act))
            state = dict(this.successors(state))[act]
        assert not this.successors(state)
    states = {this.initial} | {dict(this.successors(state))[act] for state, act in taken}
    assert taken == {(state, act) for state in states for act, _ in this.successors(state)}
    assert len(orders) < len(taken) / 2


@pytest.mark.long
@pytest.mark.parametrize("seed", [20261126])
def test_the_real_processes_do_what_the_model_does(seed):
    run = machine.command("-m", "fixed.orders", "--forced", ORDERS, "--seed", seed, "--json")
    told = json.loads(run.stdout)
    assert (told["differs"], run.returncode) == ([], 0)
    assert told["orders"] == ORDERS < told["transitions"] < told["of"]


@pytest.mark.long
@pytest.mark.parametrize(("ranks", "faults"), [(1, []), (2, ["--fault", "none"])])
def test_warm_segments_do_what_the_model_does(ranks, faults):
    """With a pool of one segment and three requests; `--forced` alone runs all of the 558 orders for one rank."""
    words = (
        "--forced",
        ORDERS // 2,
        "--seed",
        20261126,
        "--protocol",
        "warm_segments",
        "--ranks",
        ranks,
        *faults,
        "--json",
    )
    run = machine.command("-m", "fixed.orders", *words)
    told = json.loads(run.stdout)
    assert (told["differs"], run.returncode) == ([], 0)
    assert told["orders"] == ORDERS // 2 < told["transitions"] < told["of"]


@pytest.mark.long
@pytest.mark.parametrize("protocol", ["as released", "a segment a send", "no barrier"])
def test_the_shortest_wrong_order_goes_wrong_for_real(single, protocol):
    assert single[protocol] == ""


@pytest.mark.long
@pytest.mark.parametrize(
    ("what", "where"),
    [
        ("the code links first", "tokenizer register: it asks to link "),
        ("the model links first", "tokenizer create: it asks to register "),
        ("the code gives nothing back", "tokenizer unlink: it asks to end"),
        ("the tokenizer raises an error", "waited 1 s for the processes to come: RuntimeError: no such request"),
        ("the pool asks for the lease first", "tokenizer asks for its only name: "),
        ("the pool does not ask for the lease", "tokenizer asks for a lease: "),
    ],
)
def test_what_is_not_as_in_the_model_is_seen(single, what, where):
    assert single[what].startswith(where)


@pytest.mark.parametrize(
    "words",
    [
        ["--forced", "0"],
        ["--forced", "--protocol", "reference_count"],
        ["--forced", "--n", "1"],
        ["--forced", "--n", "2", "3"],
        ["--forced", "--protocol", "warm_segments", "--n", "2"],
        ["--forced", "--protocol", "warm_segments", "--fault", "client gone"],
    ],
)
def test_bad_usage(words):
    told = machine.command("-m", "fixed.orders", *words)
    assert (told.returncode, told.stdout, len(told.stderr.splitlines())) == (2, "", 1)
