"""sglang's own HTTP server, as released and with the fix: which clients are answered, which are cut, and by which
error."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
from argparse import Namespace
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from PIL import Image

from repro.lab import engine
from repro.lab.engine import launcher
from repro.lab.evidence.verdict import Verdict
from repro.lab.server import account, picture, report
from repro.lab.server.account import Account
from repro.lab.teaching import transcript
from scripts import readme
from tests import machine, scenes

OTHERS = 4  # clients that stream in `scenes.server_cases`
DEAD_PROXY = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"}


def serve(host, *, fixed: bool) -> Verdict:
    environment = {**engine.environment("tiny", engine.CPU), **DEAD_PROXY}
    return launcher.run(scenes.server_cases, Namespace(fixed=fixed, n=2), environment=environment, on=host)


@pytest.fixture(scope="module")
def cut_off(host) -> Verdict:
    """The released server, with a proxy in its environment that nobody can reach."""
    return serve(host, fixed=False)


@pytest.fixture(scope="module")
def served(host) -> Verdict:
    """The fixed server, in the same environment."""
    return serve(host, fixed=True)


@pytest.mark.fail_to_pass
def test_as_released_every_client_is_cut_and_with_the_fix_every_client_is_answered(cut_off, served):
    assert account.keeps(cut_off, "crashed"), report.text(cut_off, "crashed")
    assert account.keeps(served, "survived"), report.text(served, "survived")
    assert not account.keeps(cut_off, "survived")
    assert not account.keeps(served, "crashed")


@pytest.mark.pass_to_pass
@pytest.mark.parametrize("case", scenes.API_CASES)
def test_as_released_and_with_the_fix_the_api_says_the_same(case, cut_off, served):
    number = list(scenes.API_CASES).index(case)
    before, after = (account.read(verdict.events).of("before")[number] for verdict in (cut_off, served))
    assert (before.texts, before.error, before.says) == (after.texts, after.error, after.says)
    if case == "two images, n = 2":
        assert before.error.startswith("openai.BadRequestError"), before
        assert "image_data" in before.says, before
    else:
        assert len(before.texts) == scenes.API_CASES[case][1]
        assert all(before.texts)


def test_what_the_clients_libraries_raise(cut_off):
    seen = account.read(cut_off.events)
    assert len(seen.of("other")) == OTHERS
    assert {one.error.partition(" ")[0] for one in seen.of("other")} == {"httpx.RemoteProtocolError"}
    assert all(0 < one.tokens < one.asked for one in seen.of("other"))
    assert [one.error.partition(" ")[0] for one in seen.of("culprit")] == ["openai.APIConnectionError"]
    assert [one.error.partition(" < ")[2] for one in seen.of("next")] == ["httpx.ConnectError"]
    assert seen.health == {"before": "200", "after": "httpx.ConnectError"}
    assert 0 <= seen.gone < 2


def test_every_stream_is_whole_with_the_fix(served):
    seen = account.read(served.events)
    assert [(one.tokens, one.whole) for one in seen.of("other")] == [(200, True)] * OTHERS
    assert len(set(seen.of("culprit")[0].texts)) == 1
    assert seen.of("culprit")[0].texts[0] == seen.of("before")[1].texts[0]  # what the same image said alone
    assert seen.gone is None


def test_the_culprit_asks_while_everybody_streams(served):
    """Every other client gets its first token before the culprit's answer, and its last token after it."""
    ends = [(event["kind"], event["at"]) for event in served.events if event["what"] == "client"]
    culprit = next(at for kind, at in ends if kind == "culprit")
    assert all(at > culprit for kind, at in ends if kind == "other")


def test_nothing_is_left_and_all_its_processes_listen_on_loopback_only(cut_off, served):
    for verdict in (cut_off, served):
        left = verdict.leftovers
        segments = [name for name in left.segments if not name.startswith("sem.")]
        assert (segments, left.processes, left.remaining) == ([], [], [])
        listens = next(event for event in verdict.events if event["what"] == "listens")
        assert listens["http"] in {port for _, port, _ in listens["sockets"]}
        assert {address for address, _, _ in listens["sockets"]} == {"127.0.0.1"}


def test_the_released_script_keeps_its_promise(host, tmp_path):
    log, dot = tmp_path / "server.log", tmp_path / "dot.png"
    Image.new("RGB", (1, 1), "crimson").save(dot)
    run = machine.command("repro/server.py", "--clients", 2, "--n", 3, "--image", dot, "--json", "--log", log, on=host)
    told = json.loads(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr
    assert Verdict.from_dict(told).is_the_crash()
    assert [one["whole"] for one in told["clients"]["clients"]] == [False] * 4
    assert "--host 127.0.0.1" in log.read_text(encoding="utf-8")
    assert all(frame in log.read_text(encoding="utf-8") for frame in told["frames"])


@pytest.mark.fail_to_pass
def test_a_retry_carries_the_killer_to_the_next_replica_and_with_the_fix_nobody_tries_again(host):
    words = "--replicas", 2, "--clients", 2, "--json"
    for script, after, again in (("repro/server.py", 0, 1), ("fixed/server.py", 2, 0)):
        run = machine.command(script, *words, on=host)
        assert run.returncode == 0, run.stdout + run.stderr
        seen = json.loads(run.stdout)["clients"]
        assert (seen["replicas"], seen["again"]) == ({"before": 2, "after": after}, again)
        assert [one["whole"] for one in seen["clients"]] == [bool(after)] * 4


def test_the_page_of_the_role_play_shows_what_the_script_prints(host):
    page = (machine.ROOT / "docs" / "role-play.md").read_text(encoding="utf-8")
    run = machine.command("repro/server.py", on=host)
    assert run.returncode == 0, run.stdout + run.stderr
    assert without_chance(readme.blocks(page)["python repro/server.py"]) == without_chance(run.stdout)


def without_chance(output: str) -> str:
    """`output` without what differs from run to run: how many tokens had come at the cut, and the columns' widths."""
    return re.sub(" +", " ", re.sub(r"\d+ to \d+ of", "_ to _ of", transcript.compared(output)))


def test_the_fixed_script_with_the_hotfix_keeps_its_promise(host, tmp_path):
    log = tmp_path / "server.log"
    run = machine.command("fixed/server.py", "--with", "hotfix", "--clients", 2, "--log", log, on=host)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "verdict    survived, as promised" in run.stdout
    assert run.stdout.count("verdict ") == 1
    assert "sglang-shm-hotfix: sglang 0.5.12.post1 is patched in memory" in log.read_text(encoding="utf-8")


def test_the_picture_has_a_lane_for_each_client_and_a_cut(cut_off, served):
    lanes = picture.lanes(account.read(cut_off.events))
    assert [lane.title for lane in lanes] == [*(f"client {k}" for k in range(1, OTHERS + 1)), "the culprit", "the next"]
    assert not any(lane.whole for lane in lanes)
    drawn = picture.svg(account.read(cut_off.events), "as released")
    assert "the server is gone" in drawn
    assert "the server is gone" not in picture.svg(account.read(served.events), "with the fix")
    ElementTree.fromstring(drawn)


def test_the_request_to_paste_is_the_one_that_kills(tmp_path):
    """What curl would send is one image of 1 x 1 pixel, n = 2. (The released script is killed by that very image.)"""
    run = machine.command("-m", "repro.lab.server.request")
    words = shlex.split(run.stdout)
    body = json.loads(words[words.index("-d") + 1])
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    image = Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2])))
    assert (run.returncode, words[0], words[1]) == (0, "curl", "http://127.0.0.1:30000/v1/chat/completions")
    assert (image.size, image.format, body["n"]) == ((1, 1), "PNG", 2)


WHOLE = {"what": "client", "number": 0, "whole": True, "tokens": 5, "asked": 5}
CUT = {**WHOLE, "whole": False, "tokens": 3, "error": "httpx.RemoteProtocolError"}


def told(other: dict, culprit: dict, following: dict, after: str) -> Verdict:
    events = [
        {"what": "health", "when": "before", "says": "200"},
        {"kind": "other", **other},
        {"kind": "culprit", **culprit},
        {"kind": "next", **following},
        {"what": "health", "when": "after", "says": after},
    ]
    return Verdict("survived", n=2, answers=["a", "b"], events=events)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (lambda: told(WHOLE, WHOLE, WHOLE, "200"), True),
        (lambda: told(CUT, WHOLE, WHOLE, "200"), False),
        (lambda: told(WHOLE, CUT, WHOLE, "200"), False),
        (lambda: told(WHOLE, WHOLE, CUT, "200"), False),
        (lambda: told(WHOLE, WHOLE, WHOLE, "503"), False),
    ],
)
def test_one_client_less_and_the_promise_is_broken(change: Callable[[], Verdict], kept: bool):
    assert account.keeps(change(), "survived") == kept


def test_an_account_without_clients_keeps_nothing():
    assert account.read([]) == Account([], {}, None)
    assert not account.keeps(Verdict("survived", n=0, answers=[]), "survived")
