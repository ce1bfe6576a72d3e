"""A release's source: any of them, whole or not at all, and one clear line when it cannot be had."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from repro.lab.evidence import verdict
from repro.lab.evidence.verdict import Refused
from repro.lab.lifted import experiment
from repro.lab.upstream import lift, source, standins

RELEASES = ["0.5.6", "0.5.8.post1", "0.5.9", "0.5.10.post1", "0.5.11", "0.5.12", "0.5.13", "0.5.16", "0.5.20", "0.5.23"]
NAME = "srt/managers/mm_utils.py"


@pytest.fixture
def cold_cache(tmp_path, monkeypatch):
    """An empty cache directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_runs_and_crashes_where_it_is_affected(release):
    one, two = experiment.run(n=1, release=release), experiment.run(n=2, release=release)
    assert one.verdict.outcome == "survived"
    assert two.verdict.release == release
    assert two.verdict.is_the_crash() == (release in verdict.AFFECTED)
    assert (two.verdict.outcome == "survived") == (release not in verdict.AFFECTED)


@pytest.mark.network
def test_0_5_9_unlinks_when_it_unpickles():
    """The same crash, but the consumer opens and unlinks in one step there."""
    unlinks = [event.where for event in experiment.run(n=2, release="0.5.9").events if event.what == "unlink"]
    assert unlinks[0].endswith(" __setstate__")


def test_the_installed_release_is_read_where_it_is():
    code = source.read(source.INSTALLED, NAME)
    assert code.release == "0.5.12.post1"
    assert "site-packages" in str(code.path)


@pytest.mark.network
def test_a_download_is_unpacked_once_and_then_needs_no_network(cold_cache, monkeypatch):
    first = source.read("0.5.13", NAME)
    assert sorted(path.name for path in first.path.parent.iterdir()) == ["mm_utils.py", "tokenizer_manager.py"]
    monkeypatch.setattr(source, "_download", lambda *_: pytest.fail("downloaded again"))
    assert source.read("0.5.13", NAME) == first
    left = [path.name for path in (cold_cache / "sglang-shm-kit/releases/0.5.13").iterdir()]
    assert left == ["sglang"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("ERROR: No matching distribution found for sglang==9.9.9 (from versions: 0.5.6)", "there is no sglang 9.9.9"),
        ("ERROR: Could not find a version (from versions: none)", "no package registry answers"),
        ("NewConnectionError('...: Failed to establish a new connection')", "no package registry answers"),
        ("ERROR: disk quota exceeded", "disk quota exceeded"),
        ("", "pip gave no reason"),
    ],
)
def test_a_download_that_fails_is_one_line(cold_cache, monkeypatch, said, expected):
    answer = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(source.subprocess, "run", lambda *_, **__: answer)
    with pytest.raises(Refused, match=expected) as refusal:
        source.read("9.9.9", NAME)
    assert "\n" not in str(refusal.value)
    assert os.listdir(cold_cache / "sglang-shm-kit/releases/9.9.9") == []


def wheel(path: Path, content: bytes, digest: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"sglang/{NAME}", content)
        archive.writestr("sglang-1.dist-info/RECORD", f"sglang/{NAME},sha256={digest},1\n")
    return path


def test_a_wheel_that_is_not_what_its_record_says_is_refused(tmp_path):
    with pytest.raises(Refused, match="is not what the wheel's RECORD says"):
        source.unpack(wheel(tmp_path / "a.whl", b"x = 1", "AAAA"), tmp_path / "out")
    good = "OIEN3LHIIp9rhD9MtfLXLTrfNjPFEmLaCWgHS0vGd2Y"
    with pytest.raises(Refused):
        source.unpack(wheel(tmp_path / "b.whl", b"x = 2", good), tmp_path / "out")


def test_half_a_wheel_is_refused(tmp_path):
    whole = wheel(tmp_path / "a.whl", b"x" * 1000, "AAAA").read_bytes()
    (tmp_path / "half.whl").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Refused, match=r"half\.whl is damaged"):
        source.unpack(tmp_path / "half.whl", tmp_path / "out")


@pytest.mark.network
def test_a_name_that_a_release_lacks_is_named():
    code = source.read("0.5.9", source.MM_UTILS)
    with pytest.raises(Refused, match=r"sglang 0\.5\.9 has no has_shm_features in mm_utils\.py"):
        lift.lift(code, ["has_shm_features"], {})
    with pytest.raises(Refused, match=r"no TokenizerManager\.fly"):
        lift.lift(source.read("0.5.9", source.TOKENIZER_MANAGER), ["TokenizerManager.fly"], {})


def test_what_is_not_offered_is_named():
    with pytest.raises(Refused, match=r"needs .*torch"):
        lift.lift(source.read(source.INSTALLED, source.MM_UTILS), ["ShmPointerMMData"], {})


def test_lifted_code_keeps_upstreams_file_and_lines():
    lifted = standins.mm_utils("0.5.12.post1")
    code = lifted.wrap_shm_features.__code__
    assert code.co_filename == str(source.read(source.INSTALLED, source.MM_UTILS).path)
    assert code.co_firstlineno == lifted.lines["wrap_shm_features"] == 1602


def test_nothing_is_offered_that_is_both_real_and_a_standin():
    assert not set(standins.REAL) & set(standins.of_modules())


@pytest.mark.network
def test_prepare_is_refused_where_upstream_has_the_fix():
    with pytest.raises(Refused, match="0 expansion points that share"):
        experiment.run(n=2, release="0.5.13", prepare=lambda request: request)
