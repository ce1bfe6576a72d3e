"""A release's source: every release can be read. It is complete or it is not there, and an error is one clear line."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from repro.lab import releases
from repro.lab.lifted import run
from repro.lab.refused import Refused
from repro.lab.upstream import lift, source, standins
from repro.lab.upstream.release import Release

NAME = "srt/managers/mm_utils.py"


@pytest.fixture
def cold_cache(tmp_path, monkeypatch):
    """An empty cache directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("release", releases.ALL)
def test_every_release_runs_and_crashes_where_it_is_affected(release):
    one, two = run(n=1, release=release), run(n=2, release=release)
    assert one.verdict.outcome == "survived"
    assert two.verdict.release == release
    assert two.verdict.is_the_crash() == (release in releases.AFFECTED)
    assert (two.verdict.outcome == "survived") == (release not in releases.AFFECTED)


def test_there_are_25_releases_of_which_6_are_affected():
    assert (len(releases.ALL), len(releases.AFFECTED)) == (25, 6)
    assert releases.AFFECTED == ("0.5.9", "0.5.10", "0.5.10.post1", "0.5.11", "0.5.12", "0.5.12.post1")


@pytest.mark.network
def test_0_5_9_unlinks_when_it_unpickles():
    """The same crash, but the consumer opens and unlinks in one step there."""
    unlinks = [event.where for event in run(n=2, release="0.5.9").events if event.what == "unlink"]
    assert unlinks[0].endswith(" __setstate__")


def test_the_installed_release_is_read_where_it_is():
    code = source.read(source.INSTALLED, NAME)
    assert code.release == "0.5.12.post1"
    assert "site-packages" in str(code.path)


def test_where_sglang_is_not_installed_the_last_affected_release_is_read(monkeypatch):
    monkeypatch.setattr(source, "installed_version", lambda: None)
    code = source.read(source.INSTALLED, NAME)
    assert code.release == releases.LAST
    assert "site-packages" not in str(code.path)


@pytest.mark.parametrize("release", ["0.5.99", "x", "../../etc", "", "0.5.13/../0.5.14"])
def test_what_is_not_a_release_is_refused_at_once(release, monkeypatch):
    """This needs neither the cache nor the network, because such a word never becomes a part of a path."""
    monkeypatch.setattr(source.subprocess, "run", lambda *_, **__: pytest.fail("asked a registry"))
    with pytest.raises(Refused, match="is not a release: give one from 0\\.5\\.6 to 0\\.5\\.23, or `installed`"):
        source.read(release, NAME)


@pytest.mark.network
def test_a_download_is_unpacked_once_and_then_needs_no_network(cold_cache, monkeypatch):
    first = source.read("0.5.13", NAME)
    assert sorted(path.name for path in first.path.parent.iterdir()) == ["mm_utils.py", "tokenizer_manager.py"]
    assert os.listdir(cold_cache / "sglang-shm-kit/releases") == ["0.5.13"]
    monkeypatch.setattr(source.subprocess, "run", lambda *_, **__: pytest.fail("downloaded again"))
    assert source.read("0.5.13", NAME) == first


@pytest.mark.network
def test_a_cached_file_that_was_changed_is_not_run(cold_cache, monkeypatch):
    path = source.read("0.5.13", NAME).path
    path.write_text("raise SystemExit('not what was released')", encoding="utf-8")
    downloads = []
    monkeypatch.setattr(source, "fetch", lambda release: downloads.append(release))
    source.read("0.5.13", NAME)
    assert downloads == ["0.5.13"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("ERROR: Could not find a version (from versions: none)", "no package registry answers"),
        ("NewConnectionError('...: Failed to establish a new connection')", "no package registry answers"),
        ("ERROR: disk quota exceeded", "disk quota exceeded"),
        ("", "pip gave no reason"),
    ],
)
def test_a_download_that_fails_is_one_line_and_leaves_nothing(cold_cache, monkeypatch, said, expected):
    answer = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(source.subprocess, "run", lambda *_, **__: answer)
    with pytest.raises(Refused, match=expected) as refusal:
        source.read("0.5.14", NAME)
    assert "\n" not in str(refusal.value)
    assert os.listdir(cold_cache / "sglang-shm-kit/releases") == []


@pytest.fixture
def wheel(tmp_path):
    """Makes a wheel that says that it is 0.5.13, with this in the place of mm_utils.py."""

    def make(content: bytes | None = None) -> Path:
        path = tmp_path / "sglang-0.5.13-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for file in (source.MM_UTILS, source.TOKENIZER_MANAGER):
                real = source.read("0.5.13", file).path.read_bytes()
                archive.writestr(f"sglang/{file}", content if content and file == NAME else real)
        return path

    return make


@pytest.mark.network
def test_a_wheel_whose_files_are_not_those_that_were_released_is_refused(wheel, tmp_path):
    source.unpack(wheel(), "0.5.13", tmp_path / "good")
    assert (tmp_path / "good/0.5.13/sglang" / NAME).is_file()
    with pytest.raises(Refused, match="is not the file that sglang 0\\.5\\.13 was released with"):
        source.unpack(wheel(b"x = 1"), "0.5.13", tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


@pytest.mark.network
def test_half_a_wheel_is_refused(wheel, tmp_path):
    whole = wheel().read_bytes()
    (tmp_path / "half.whl").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Refused, match=r"half\.whl is damaged"):
        source.unpack(tmp_path / "half.whl", "0.5.13", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.network
def test_a_name_that_a_release_lacks_is_named():
    code = source.read("0.5.9", source.MM_UTILS)
    with pytest.raises(Refused, match=r"sglang 0\.5\.9 has no has_shm_features in mm_utils\.py"):
        lift.lift(code, ["has_shm_features"], {})
    with pytest.raises(Refused, match=r"no TokenizerManager\.fly"):
        lift.lift(source.read("0.5.9", source.TOKENIZER_MANAGER), ["TokenizerManager.fly"], {})


def test_what_is_not_offered_is_named():
    with pytest.raises(Refused, match=r"needs .*torch.*: not lifted, no stand-in"):
        lift.lift(source.read(source.INSTALLED, source.MM_UTILS), ["ShmPointerMMData"], {})


def test_lifted_code_keeps_upstreams_file_and_lines():
    lifted = Release.of("0.5.12.post1").mm_utils
    code = lifted.wrap_shm_features.__code__
    assert code.co_filename == str(source.read(source.INSTALLED, source.MM_UTILS).path)
    assert code.co_firstlineno == lifted.lines["wrap_shm_features"] == 1602


def test_a_release_is_lifted_once():
    assert Release.of("installed") is Release.of("0.5.12.post1")
    assert Release.of("installed").mm_utils is Release.of("0.5.12.post1").mm_utils


def test_nothing_is_offered_that_is_both_real_and_a_standin():
    assert not set(standins.REAL) & set(standins.of_modules())


SCOPES = """
limit = 1
def outer(given: Annotated = limit):
    import os as system
    def inner(): return inner_too(), given, system, other
    class Holder:
        value = limit
        def method(self): return self.value, later
    match given:
        case [first, *rest]: return inner, Holder, first, rest
    return [each for each in given if each in limit]
def inner_too(): return 2
"""


def test_what_a_definition_needs_is_found_whatever_it_defines_inside(tmp_path):
    code = source.Source("x", tmp_path / "x.py", SCOPES)
    lifted = lift.lift(code, ["outer"], {"other": 3, "later": 4})
    assert set(lifted.given) == {"other", "later"}
    assert set(lifted.lines) == {"limit", "outer", "inner_too"}
    with pytest.raises(Refused, match="x\\.py needs later, other: not lifted, no stand-in"):
        lift.lift(code, ["outer"], {})


@pytest.mark.network
def test_a_fix_at_the_expansion_points_is_refused_where_upstream_has_it():
    with pytest.raises(Refused, match="sglang 0\\.5\\.13 has 0 expansion points that share"):
        run(n=2, release="0.5.13", fix=lambda request: request)


def test_a_hook_that_is_misspelled_is_refused():
    from repro.lab.upstream.plugs import Plug

    for path in ("sglang.srt.managers.mm_util.wrap_shm_features", "sglang.srt.managers.mm_utils.wrap_shm_feature"):
        with pytest.raises(Refused, match="wrap_shm_feature"):
            run(n=1, fix=Plug(hooks={path: print}))


def test_of_pips_configuration_a_download_hears_only_the_way_to_a_registry(cold_cache, monkeypatch):
    heard = {}

    def refuse(command, *, env, **_):
        heard.update(env)
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no")

    monkeypatch.setattr(subprocess, "run", refuse)
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    with pytest.raises(Refused, match="ERROR: no"):
        source.read("0.5.13", NAME)
    assert "PIP_USER" not in heard
    assert heard["PIP_INDEX_URL"] == "https://mirror.example/simple"
