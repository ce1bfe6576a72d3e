"""Every order of events: the model finds what is known to be wrong, and nothing in the design that is right."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from fixed.designs import DESIGNS, segment_pool
from fixed.mutants import AS_RELEASED as RELEASED
from fixed.orders import FAULTS, PROTOCOLS, Machine, Step, explore, lanes, protocols
from fixed.orders.pool_machine import PoolMachine
from fixed.orders.protocols import LEASE, MANY_NAMES, ONLY_BASE_NAME, RIGHT, WARM, WARM_MAPPED, Pool
from repro.lab.refused import Refused
from tests import machine

WRONG = {
    "as released": "a consumer cannot open",
    "a segment a send": "names are left after: failed send",
    "an owner table": "names are left after: scheduler killed",
    "reused by link count": "a consumer reads other pixels",
    "many names, no barrier": "a consumer cannot open",
    "many names, registered late": "names are left after: tokenizer killed",
    "warm segments, no lease": "a consumer reads other pixels",
    "warm segments, no link count": "a consumer reads other pixels",
    "warm segments, no base name": "a consumer reads other pixels after: base name removed",
    "warm segments, lease first": "a consumer reads other pixels",
    "warm segments, maps unseen": "a consumer reads other pixels",
}
ONE_REQUEST = [protocol for protocol in PROTOCOLS if not protocol.pool]


def name(protocol) -> str:
    return protocol.name


@pytest.fixture(scope="module")
def found():
    """Every protocol, explored once: n = 2, or several requests with n = 1; 2 ranks."""
    return {protocol.name: explore(protocol, 1 if protocol.pool else 2) for protocol in PROTOCOLS}


def test_every_design_has_a_protocol():
    modelled = [design for protocol in PROTOCOLS for design in protocol.designs]
    assert sorted(modelled) == sorted([RELEASED.name, *(design.name for design in DESIGNS)])


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=name)
def test_what_is_wrong_is_found(protocol, found):
    assert found[protocol.name].verdict == WRONG.get(protocol.name, "right")
    assert found[protocol.name].right == (protocol in RIGHT)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_one_segment_many_names_is_right_in_every_order(n, ranks):
    explored = explore(MANY_NAMES, n, ranks)
    assert explored.right, explored.wrong
    assert explored.peak == 1
    assert explored.left == ["all killed at once"]
    assert explored.states < 30_000


def test_without_faults_a_segment_a_send_is_right_and_needs_one_for_each_sample():
    explored = explore(protocols.SEGMENT_A_SEND, 4, 2, [])
    assert (explored.verdict, explored.peak) == ("right", 4)


def register_after(steps: list[Step], what: str) -> list[Step]:
    """Each register of a name after the step that makes the name."""
    steps = list(steps)
    for place, step in enumerate(steps[:-1]):
        if step.what == "register" and steps[place + 1].what == what:
            steps[place : place + 2] = steps[place + 1], step
    return steps


MUTANTS = {
    "the names that were not sent are not given back": ({"gives_back": False}, "failed send"),
    "no name is removed before the tree is killed": ({"tidies": False}, "scheduler killed"),
    "create before register": (
        {"program": lambda n: register_after(protocols.many_names(n), "create")},
        "tokenizer killed",
    ),
    "link before register": (
        {"program": lambda n: register_after(protocols.many_names(n), "link")},
        "tokenizer killed",
    ),
    "a name too many": (
        {"program": lambda n: [Step("register", 9), Step("link", 9), *protocols.many_names(n)]},
        "names are left",
    ),
    "a name too few": (
        {"program": lambda n: [step for step in protocols.many_names(n) if step != Step("link", 1)]},
        "a consumer cannot open",
    ),
    "two sends carry one name": (
        {"program": lambda n: [s._replace(name=1) if s == Step("send", 0, n) else s for s in protocols.many_names(n)]},
        "a consumer cannot open",
    ),
    "no document says that a kill of all leaves names": ({"leaves": ()}, "all killed at once"),
    "it waits for an answer before it sends": (
        {"program": lambda n: [protocols.answers(1), *protocols.many_names(n)]},
        "nobody can go on",
    ),
    "it waits for an answer too many": (
        {"program": lambda n: [*protocols.many_names(n), protocols.answers(protocols.sends_of(n) + 1)]},
        "nobody can go on",
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_of_the_right_protocol_is_found(mutant):
    changed, kind = MUTANTS[mutant]
    assert kind in explore(replace(MANY_NAMES, **changed)).verdict


@pytest.mark.parametrize("protocol", [WARM, WARM_MAPPED], ids=name)
@pytest.mark.parametrize(("n", "ranks", "segments"), [(1, 1, 1), (1, 1, 2), (1, 2, 2), (2, 1, 1), (2, 2, 1)])
def test_warm_segments_are_right_in_every_order(protocol, n, ranks, segments):
    pool = replace(protocol.pool, segments=segments, later=min(protocol.pool.later, 3 - ranks))
    explored = explore(replace(protocol, pool=pool), n, ranks)
    assert explored.right, explored.wrong
    assert explored.left == ["all killed at once"]
    assert explored.peak == 1 + pool.later  # a segment for each request that nobody has read yet


def test_a_segment_is_used_again_when_it_is_free_and_every_request_comes_to_its_pixels():
    """Otherwise no order would be wrong only because no segment is used again."""
    this = PoolMachine(WARM, 1, 2)
    waiting, seen, ends = [this.initial], {this.initial}, set()
    for state in waiting:  # it grows
        after = this.successors(state)
        ends |= set() if after else {state}
        fresh = [other for _, other in after if other not in seen]
        seen |= set(fresh)
        waiting += list(dict.fromkeys(fresh))
    assert {state.given for state in ends} == {(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)}  # 1: one of its own
    assert {(this.answered(state), state.names, state.fault) for state in ends} == {(3, 0, 0)}


def test_the_pool_asks_what_the_model_asks(monkeypatch):
    """The pool asks in this order, and it asks the second question only after a yes."""
    asked, answer = [], {"only": True}
    monkeypatch.setattr(
        segment_pool, "only_the_base_name_is_left", lambda _: asked.append(ONLY_BASE_NAME) or answer["only"]
    )
    monkeypatch.setattr(segment_pool, "nobody_else_has_it_open", lambda _: not asked.append(LEASE))
    assert segment_pool.is_free(None)
    assert asked == list(Pool().asks) == list(WARM.pool.asks)
    answer["only"] = False
    assert not segment_pool.is_free(None)
    assert asked[2:] == [ONLY_BASE_NAME]


WARM_MUTANTS = {
    "the names that were not sent are not given back": ({"gives_back": False}, "names are left after: failed send"),
    "no name is removed before the tree is killed": ({"tidies": False}, "names are left after: scheduler killed"),
    "no barrier": ({"barrier": False}, "a consumer cannot open"),
    "it asks nothing": ({"pool": Pool(asks=[])}, "a consumer reads other pixels"),
    "no document says that a kill of all leaves names": ({"leaves": ()}, "all killed at once"),
}


@pytest.mark.parametrize("mutant", WARM_MUTANTS)
def test_a_mutant_of_warm_segments_is_found(mutant):
    changed, kind = WARM_MUTANTS[mutant]
    assert kind in explore(replace(WARM, **changed), 1).verdict


def every_order(machine: Machine) -> list[list]:
    """All orders, one by one."""

    def onwards(state, acts):
        after = machine.successors(state)
        if not after:
            yield acts
        for act, successor in after:
            yield from onwards(successor, [*acts, act])

    return list(onwards(machine.initial, []))


@pytest.mark.parametrize(("n", "ranks"), [(1, 1), (1, 2), (2, 1)])
@pytest.mark.parametrize("protocol", ONE_REQUEST, ids=name)
def test_orders_are_counted_and_the_shortest_is_shortest(protocol, n, ranks):
    orders, explored = every_order(Machine(protocol, n, ranks, FAULTS)), explore(protocol, n, ranks)
    assert explored.orders == len(orders)
    for shortest in explored.wrong.values():
        assert shortest in orders
    if "a consumer cannot open" in explored.wrong:
        fails = [order for order in orders if order[-1].what == "open fails"]
        assert len(explored.shortest) == min(map(len, fails))


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=name)
def test_the_lanes_of_a_shortest_order(protocol, found):
    explored = found[protocol.name]
    text = list(lanes.as_text(explored))
    assert bool(text) == (not explored.right)
    for number, act in enumerate(explored.shortest, 1):
        assert text[number].lstrip().startswith(f"{number} ")
        assert all(word in text[number] for word in act.what.partition(" fails")[0].split())
    assert any(line.startswith("left in /dev/shm: ") for line in text) == ("left" in explored.verdict)
    drawing = ElementTree.fromstring(lanes.as_svg(explored))
    assert explored.verdict in drawing[0].text
    words = [element.text for element in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert sum(any(act.what.split()[0] in word for word in words) for act in explored.shortest) == len(
        explored.shortest
    )


def test_the_table():
    told = machine.command("-m", "fixed.orders")
    assert (told.returncode, told.stderr) == (0, "")
    rows = [line for line in told.stdout.partition("\n\n")[0].splitlines() if line.startswith("many names  ")]
    assert len(rows) == 16
    assert all(row.endswith("  right") for row in rows)
    for wrong, verdict in WRONG.items():
        n = 1 if wrong.startswith("warm") else 2
        assert f"\n{wrong}, n = {n}, 2 ranks: {verdict}. The shortest order" in told.stdout


def test_as_json():
    told = machine.command("-m", "fixed.orders", "--json", "--protocol", "as_released", "--fault", "none", "--n", "3")
    (only,) = json.loads(told.stdout)
    assert told.returncode == 0
    assert (only["n"], only["faults"], only["verdict"]) == (3, [], "a consumer cannot open")
    assert only["wrong"]["a consumer cannot open"][-1] == {"who": "rank 0", "what": "open fails", "name": 0, "send": 1}


@pytest.mark.parametrize("words", [["--n", "0"], ["--ranks", "x"], ["--protocol", "nothing"], ["--fault", "flood"]])
def test_bad_usage(words):
    told = machine.command("-m", "fixed.orders", *words)
    assert (told.returncode, told.stdout, len(told.stderr.splitlines())) == (2, "", 1)
    assert words[1] in told.stderr


def test_too_many_states_are_refused(monkeypatch):
    monkeypatch.setattr("fixed.orders.explorer.MOST", 500)
    with pytest.raises(Refused, match="more than 500 states"):
        explore(MANY_NAMES)
