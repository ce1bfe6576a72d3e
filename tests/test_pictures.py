"""The pictures: they say what happened, in black and white and in words, and say the same thing in every run."""

from __future__ import annotations

import copy
import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from xml.etree import ElementTree

import pytest

from repro.lab import pictures
from repro.lab.evidence.recorder import Event
from repro.lab.pictures import dot
from repro.lab.pictures.lane_rows import rows
from repro.lab.refused import Refused

TOKENIZER, SCHEDULER, RANK = (987654321, "tokenizer"), (987654322, "scheduler"), (987654323, "scheduler 1")
SVG = "{http://www.w3.org/2000/svg}"


def events(*acts, start=91234.5):
    """Events a millisecond apart, of `(process, "create map", name, send, further fields)`."""
    ticks = count()
    return [
        Event(start + next(ticks) / 1000, *process, what, name, send, **(fields[0] if fields else {}))
        for process, whats, name, send, *fields in acts
        for what in whats.split("+")
    ]


def sent(send, name):
    return [
        (TOKENIZER, "create+map+close", name, send, {"bytes": 301056}),
        (SCHEDULER, "open+map+unlink+close", name, send),
    ]


def crash():
    gone = {"errno": 2, "where": "mm_utils.py:1564 __setstate__"}
    return events(*sent(0, "/psm_1a2b3c4d"), (SCHEDULER, "open failed", "/psm_1a2b3c4d", 1, gone))


def fixed(n, start=91234.5):
    return events(*(act for send in range(n + 1) for act in sent(send, f"/psm_{send:08x}")), start=start)


def labels(n):
    return ["warm-up", *(f"sample {number}" for number in range(1, n + 1))]


@dataclass
class Tensor:
    shape: tuple
    dtype: str = "torch.float32"


@dataclass
class ShmPointerMMData:
    shm_name: str
    shape: tuple = (64, 1176)
    dtype: str = "torch.float32"


@dataclass
class Item:
    feature: object
    hash: int = 7


@dataclass
class MultimodalInputs:
    mm_items: list


@dataclass
class Request:
    rid: str
    mm_inputs: MultimodalInputs | None


def request(*features):
    return Request("a", MultimodalInputs([Item(feature) for feature in features or [Tensor((64, 1176))]]))


def after_the_warm_up():
    """The source request and its shallow copy, and the item that `wrap_shm_features` changed in both."""
    source = request()
    item = source.mm_inputs.mm_items[0]
    item.feature = ShmPointerMMData("/psm_1a2b3c4d")
    return {"request": source, "warm_up": copy.copy(source)}, item


def read(svg):
    """The document, if it is valid, stands alone, and has its text alternatives."""
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert root.find(f"{SVG}title").text
    assert root.find(f"{SVG}desc").text
    assert not any(element.tag.removeprefix(SVG) in ("script", "image", "a", "style") for element in root.iter())
    assert not any(key.endswith("href") or key == "id" for element in root.iter() for key in element.attrib)
    assert min(float(element.get("font-size", 14)) for element in root.iter()) >= 12
    return root


def words(svg):
    return [element.text for element in read(svg).iter(f"{SVG}text")]


# lanes


def test_the_failed_open_is_marked_and_named():
    svg = pictures.lanes(crash(), labels=labels(1))
    assert {"open name 1 fails", "FileNotFoundError (errno 2)", "at mm_utils.py:1564 __setstate__"} <= set(words(svg))
    line = pictures.lanes_text(crash(), labels(1)).splitlines()[5]
    assert line.split() == [
        *["sample", "1", "x", "open", "name", "1:", "FileNotFoundError"],
        *["(errno", "2)", "at", "mm_utils.py:1564", "__setstate__"],
    ]


def test_a_segment_is_named_then_unlinked_but_mapped_then_gone():
    assert [row.states for row in rows(crash())] == [["named"], ["named"], ["mapped"], ["gone"], ["gone"]]
    assert {"named", "unlinked but mapped", "gone", "failed"} <= set(words(pictures.lanes(crash())))


def test_it_stays_mapped_until_the_last_one_closes():
    acts = [(TOKENIZER, "create+map", "/a", 0), (SCHEDULER, "open+map+unlink+close", "/a", 0)]
    found = rows(events(*acts, (TOKENIZER, "close", "/a", 0)))
    assert [(row.words, *row.states) for row in found][2:] == [
        ("unlink name 1", "mapped"),
        ("close name 1", "mapped"),
        ("close name 1", "gone"),
    ]


def test_without_a_record_of_mappings_an_unlinked_segment_counts_as_gone():
    found = rows(events((TOKENIZER, "create", "/a", 0), (SCHEDULER, "open+unlink", "/a", 0)))
    assert [row.states for row in found] == [["named"], ["named"], ["gone"]]


def test_a_name_that_is_used_again_is_another_segment():
    found = rows(events(*sent(0, "/a"), *sent(1, "/a")))
    assert [row.segment for row in found] == [0] * 4 + [1] * 4


def test_rows_are_few():
    assert len(rows(crash())) == 5
    assert len(rows(fixed(2))) == 12


@pytest.mark.parametrize("n", [1, 2, 8])
def test_one_column_a_segment(n):
    svg = pictures.lanes(fixed(n), labels=labels(n))
    shown = words(svg)
    assert all((f"name {number}" if n < 4 else str(number)) in shown for number in range(1, n + 2))
    assert set(labels(n)) <= set(shown)
    assert float(read(svg).get("width")) <= 900
    assert f"unlink name {n + 1}" in pictures.lanes_text(fixed(n), labels(n))


def test_names_times_and_pids_do_not_show():
    other = [replace(event, at=event.at * 3, pid=event.pid + 5, name=event.name[::-1]) for event in crash()]
    svg = pictures.lanes(crash(), labels=labels(1))
    assert svg == pictures.lanes(other, labels=labels(1))
    assert not any(secret in svg for secret in ("psm", "98765432", "91234"))


def test_how_the_sends_overlapped_does_not_show_unless_asked_for():
    one_by_one = fixed(2)
    overlapped = sorted(one_by_one, key=lambda event: (event.send > 0, event.role == "scheduler"))
    overlapped = [replace(event, at=float(at)) for at, event in enumerate(overlapped)]
    assert pictures.lanes(one_by_one) == pictures.lanes(overlapped)
    assert "may overlap" in pictures.lanes_text(overlapped)
    told = pictures.lanes_text(overlapped, order="time")
    assert "| |" in told
    assert "may overlap" not in told
    assert pictures.lanes(overlapped, order="time") != pictures.lanes(overlapped)


def test_send_by_send_never_reorders_what_happened_to_a_name():
    shared = events(
        (TOKENIZER, "create", "/a", 0),
        (SCHEDULER, "open", "/a", 2),
        (SCHEDULER, "open", "/a", 1),
        (SCHEDULER, "unlink", "/a", 1),
    )
    assert [row.send for row in rows(shared)] == ["send 0", "send 2", "send 1", "send 1"]


def test_ranks_are_told_apart_and_every_failure_shows():
    acts = [(TOKENIZER, "create+map", "/a", 0), (SCHEDULER, "open+map", "/a", 0), (RANK, "open+map", "/a", 0)]
    acts += [(SCHEDULER, "unlink", "/a", 0), (RANK, "unlink failed", "/a", 0, {"errno": 2})]
    acts += [(TOKENIZER, "create failed", "/b", 1, {"errno": 28})]
    shown = words(pictures.lanes(events(*acts)))
    assert {"scheduler: open name 1, map", "scheduler 1: unlink name 1 fails", "create name 2 fails"} <= set(shown)
    assert "OSError (ENOSPC)" in shown


def test_odd_words_are_escaped():
    odd = events((TOKENIZER, "create", "/<&\x00\"'>", 0), (SCHEDULER, "open failed", "/x", 0, {"where": "<&\x01>"}))
    svg = pictures.lanes(odd, labels=['<b> & "c"'], title="1 < 2 & \x02")
    assert '<b> & "c"' in words(svg)
    assert read(svg).find(f"{SVG}title").text == "1 < 2 & \N{REPLACEMENT CHARACTER}"


def test_nothing_happened():
    assert words(pictures.lanes([]))[-1] == pictures.lanes_text([]) == "no shared-memory name was touched"
    assert rows(events((TOKENIZER, "semaphore", "/sem", None))) == []


def hovers(svg):
    """What the marks tell under the mouse."""
    return [
        group.find(f"{SVG}title").text for group in read(svg).iter(f"{SVG}g") if group.find(f"{SVG}title") is not None
    ]


def test_a_mark_tells_its_process_its_send_its_place_and_if_asked_for_its_time():
    plain, timed = (hovers(pictures.lanes(crash(), labels=labels(1), times=times)) for times in (False, True))
    failed = "scheduler, sample 1: open name 1 fails; FileNotFoundError (errno 2) at mm_utils.py:1564 __setstate__"
    assert failed in plain
    assert f"{failed}; 7.0 ms after the first act" in timed
    assert "tokenizer, warm-up: create name 1, map, close; 0.0 ms after the first act" in timed
    assert len(plain) == len(rows(crash())) + 3  # a bar while named, one while mapped, its end
    assert {"name 1: named", "name 1: unlinked but mapped", "name 1: gone"} <= set(plain)


def linked(*inodes):
    """One name is created, and another linked to it; a third is created. With these inodes."""
    acts = zip(("create", "link", "create"), ("/a", "/b", "/c"), inodes, strict=True)
    return events(*((TOKENIZER, what, name, 0, {"inode": inode}) for what, name, inode in acts))


def test_names_that_are_links_to_one_segment_show_it():
    shown = pictures.lanes_text(linked(7, 7, 8)).splitlines()
    assert shown[1].split() == ["segment", "A", "A", "B"]
    assert "Names 1 and 2 are hard links to one segment, A." in shown
    svg = pictures.lanes(linked(7, 7, 8))
    assert [word for word in words(svg) if word in ("A", "B")] == ["A", "A", "B"]
    assert {"segment", "Names 1 and 2 are hard links to one segment, A."} <= set(words(svg))
    assert "tokenizer, send 0: link name 2 (segment A)" in hovers(svg)


def test_an_inode_that_is_used_again_is_another_segment():
    shown = pictures.lanes_text(linked(7, 7, 7))
    assert shown.splitlines()[1].split() == ["segment", "A", "A", "B"]


def test_where_no_inode_was_recorded_no_segment_is_claimed():
    shown = pictures.lanes_text(linked(None, None, None))
    assert "segment" not in shown
    assert "segment" not in words(pictures.lanes(linked(None, None, None)))


def test_more_segments_than_letters():
    many = events(*((TOKENIZER, "create", f"/{number}", 0, {"inode": number}) for number in range(28)))
    assert [row.letter for row in rows(many)][24:] == ["Y", "Z", "A1", "B1"]


@pytest.mark.long
def test_the_real_recorder_tells_links_apart_from_segments():
    from fixed.designs import ONE_SEGMENT
    from repro.lab import lifted

    run = lifted.run(n=2, fix=ONE_SEGMENT)
    assert [row.letter for row in rows(run.events)] == ["A"] * len(rows(run.events))
    assert "Names 1, 2 and 3 are hard links to one segment, A." in pictures.lanes_text(run.events)


# graph


def test_what_is_shared_is_drawn_once():
    roots, _ = after_the_warm_up()
    shown = words(pictures.graph(roots))
    assert sorted(word for word in shown if "#" in word and "Request" not in word) == [
        *[" Item #1 ", " MultimodalInputs #1 ", " ShmPointerMMData #1 ", " list #1 "]
    ]
    assert {" Request #1 ", " Request #2 "} <= set(shown)


def test_the_shared_path_is_told():
    roots, item = after_the_warm_up()
    assert pictures.graph_text(roots, item).splitlines() == [
        "request -> Request #1",
        "request.rid = 'a'",
        "request.mm_inputs -> MultimodalInputs #1",
        "request.mm_inputs.mm_items -> list #1",
        "request.mm_inputs.mm_items[0] -> Item #1 (mutated)",
        "request.mm_inputs.mm_items[0].feature -> ShmPointerMMData #1",
        "request.mm_inputs.mm_items[0].feature.shm_name = name 1",
        "request.mm_inputs.mm_items[0].feature.shape = (64, 1176)",
        "request.mm_inputs.mm_items[0].feature.dtype = float32",
        "warm_up -> Request #2",
        "warm_up.rid = 'a'",
        "warm_up.mm_inputs -> MultimodalInputs #1 (shared with request)",
    ]


def test_sharing_within_one_request_is_told():
    item = Item(Tensor((1, 2)))
    told = pictures.graph_text({"request": Request("a", MultimodalInputs([item, item]))}).splitlines()
    assert told[-1] == "request.mm_inputs.mm_items[1] -> Item #1 (shared with request.mm_inputs.mm_items[0])"


def test_what_was_copied_is_drawn_twice():
    source = request()
    other = copy.deepcopy(source)
    shown = words(pictures.graph({"request": source, "sample": other}))
    assert {" MultimodalInputs #2 ", " list #2 ", " Item #2 ", " tensor (64, 1176) float32 #2 "} <= set(shown)
    assert "shared" not in pictures.graph_text({"request": source, "sample": other})


def test_the_mutated_object_is_marked_without_colour():
    roots, item = after_the_warm_up()
    plain, marked = pictures.graph(roots), pictures.graph(roots, mutated=item)
    assert " mutated " in words(marked)
    assert " mutated " not in words(plain)
    frames = [len(list(read(svg).iter(f"{SVG}polygon"))) for svg in (plain, marked)]
    assert frames[1] > frames[0]  # the second border


def test_even_a_tensor_can_be_the_mutated_one():
    tensor = Tensor((64, 1176))
    assert " mutated " in words(pictures.graph({"request": request(tensor)}, mutated=tensor))
    assert "float32 #1 (mutated)" in pictures.graph_text({"request": request(tensor)}, tensor)


def test_features_of_every_kind():
    numpy = pytest.importorskip("numpy")
    told = pictures.graph_text({"request": request([Tensor((3,)), Tensor((4,))], (Tensor((5,)),), numpy.zeros((2, 3)))})
    for kind in ("list #2", "tuple #1", "tensor (4,) float32 #1", "array (2, 3) float64 #1"):
        assert f"-> {kind}" in told
    torch = pytest.importorskip("torch")
    svg = pictures.graph({"request": request(torch.full((2, 2), 1234.5))})
    assert " tensor (2, 2) float32 #1 " in words(svg)
    assert "1234" not in svg


def test_two_pointers_to_one_name_show_one_name():
    told = pictures.graph_text({"request": request(*(ShmPointerMMData(name) for name in ("/q", "/p", "/q")))})
    assert [line.split(" = ")[1] for line in told.splitlines() if "shm_name" in line] == ["name 1", "name 2", "name 1"]


def test_eight_samples():
    roots = {f"sample_{number}": request(ShmPointerMMData(f"/{number}")) for number in range(1, 9)}
    shown = words(pictures.graph(roots))
    assert {f" Request #{number} " for number in range(1, 9)} <= set(shown)
    assert [word.strip() for word in shown if word.startswith(" sample_")] == list(roots)


def test_long_lists_are_cut():
    told = pictures.graph_text({"request": request(*(Tensor((number,)) for number in range(12)))})
    assert "request.mm_inputs.mm_items[...] = 2 more" in told


def test_odd_objects():
    odd = Request('<b>&"\x00\n\\N' + "é" * 50, None)
    assert any("<b>&" in word for word in words(pictures.graph({"<r&\n>": odd, "": object()})))
    pictures.graph({})


def test_no_address_no_name_and_no_uuid_shows():
    source = request(ShmPointerMMData("/psm_1a2b3c4d"))
    source.rid = "0123456789abcdef" * 2
    svg = pictures.graph({"request": source})
    for thing in (source, source.mm_inputs, source.mm_inputs.mm_items, source.mm_inputs.mm_items[0]):
        assert str(id(thing)) not in svg
    assert not any(secret in svg for secret in ("psm", "0x", source.rid, "node"))


PROGRAM = """
import tests.test_pictures as here
junk = [object() for _ in range({junk})]
roots, item = here.after_the_warm_up()
print(here.pictures.graph(roots, mutated=item, title="t"))
print(here.pictures.graph({{f"sample_{{n}}": here.request() for n in range(8)}}))
print(here.pictures.lanes(here.fixed(8), labels=here.labels(8)))
"""


def test_every_process_draws_the_same():
    drawn = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM.format(junk=junk)],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            cwd=Path(__file__).parents[1],
            capture_output=True,
            check=True,
            timeout=120,
        ).stdout
        for seed, junk in ((1, 0), (2, 5000), (3, 77))
    ]
    assert drawn[0].count(b"</svg>") == 3
    assert drawn[0] == drawn[1] == drawn[2]


# dot


@pytest.fixture
def no_wheel(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pygraphviz" else found(name))


def test_the_wheel_is_the_dot_that_is_used():
    assert "pygraphviz" in pictures.dot_path()


def test_else_the_one_on_the_path(no_wheel, monkeypatch, tmp_path):
    (tmp_path / "dot").write_text(f"#!{sys.executable}\n{dot.WHEEL}", encoding="utf-8")
    (tmp_path / "dot").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert pictures.dot_path() == str(tmp_path / "dot")
    assert " Request #1 " in words(pictures.graph({"request": request()}))


def test_without_any_dot_the_text_is_shown_and_says_why(no_wheel, monkeypatch):
    monkeypatch.setenv("PATH", "")
    roots, item = after_the_warm_up()
    assert pictures.dot_path() is None
    shown = words(pictures.graph(roots, mutated=item))
    assert shown[1:-2] == pictures.graph_text(roots, item).splitlines()
    assert "no dot on this machine" in shown[-1]


def test_a_dot_that_fails_is_refused_in_one_line(no_wheel, monkeypatch, tmp_path):
    (tmp_path / "dot").write_text("#!/bin/sh\necho first >&2\necho broken >&2\nexit 1\n", encoding="utf-8")
    (tmp_path / "dot").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused, match=r"^\S+/dot drew nothing \(broken\): .*pygraphviz") as refused:
        pictures.graph({"request": request()})
    assert "\n" not in str(refused.value)
