"""The recorder: the names that it counts as a run's own, the names that it does not see, and that it never disturbs a
run."""

from __future__ import annotations

import os
import posix
import time
from multiprocessing import shared_memory

import pytest

from repro.lab.evidence import leftovers, recorder
from repro.lab.evidence.event import Event
from repro.lab.evidence.recorder import Recorder
from tests import machine


@pytest.fixture
def recorded(tmp_path):
    """A recorder of this process."""
    with Recorder(tmp_path / "events", "tokenizer") as recorder:
        yield recorder


@pytest.fixture
def path():
    """A path in /dev/shm where nothing is."""
    path = machine.SHM / f"plain-file-{os.getpid()}"
    yield path
    path.unlink(missing_ok=True)


def write_by_os(path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))


def write_by_open(path) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write("mine")


def write_a_new_one(path) -> None:
    with open(path, mode="x", encoding="utf-8"):
        pass


@pytest.mark.parametrize("write", [write_by_os, write_by_open, write_a_new_one])
def test_a_plain_file_of_the_run_is_swept(recorded, path, write):
    write(path)
    assert leftovers.sweep(recorded.events()) == ([path.name], [])
    assert not path.exists()


def test_the_file_has_the_mode_and_the_content_that_it_would_have_had(recorded, path):
    write_by_os(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    write_by_open(path)
    assert path.read_text(encoding="utf-8") == "mine"


def test_to_read_what_is_not_there_makes_nothing(recorded, path):
    with pytest.raises(FileNotFoundError):
        path.read_text(encoding="utf-8")
    with pytest.raises(FileNotFoundError):
        os.open(path, os.O_RDWR)
    assert not path.exists()
    assert recorded.events() == []


@pytest.mark.parametrize("write", [write_by_os, write_by_open])
def test_a_file_that_somebody_else_makes_meanwhile_stays(recorded, path, write, monkeypatch):
    """Another process makes the file after the recorder has looked and before the file is opened."""
    looks = os.path.lexists

    def too_early(asked) -> bool:
        found = looks(asked)
        os.close(posix.open(path, os.O_CREAT | os.O_EXCL))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(os.path, "lexists", too_early)
        write(path)
    assert leftovers.sweep(recorded.events()) == ([], [])
    assert path.exists()


def test_a_file_outside_shm_stays_however_its_path_is_written(recorded, tmp_path):
    precious = tmp_path / "precious.txt"
    write_by_open(f"{machine.SHM}/..{'/..' * 8}{precious}")
    assert leftovers.sweep(recorded.events()) == ([], [])
    assert precious.exists()


def test_an_account_that_leads_out_of_shm_leads_nowhere(tmp_path):
    precious = tmp_path / "precious.txt"
    write_by_open(precious)
    outside = Event(0.0, os.getpid(), "tokenizer", "create", f"/../..{precious}", inode=precious.stat().st_ino)
    assert leftovers.sweep([outside]) == ([], [])
    assert precious.exists()


def test_what_is_renamed_linked_by_a_symbol_or_a_folder_is_not_seen_and_stays(recorded, path, tmp_path):
    """The module's documentation says so. Each is made in /dev/shm."""
    beside = machine.SHM / f"{path.name}.beside"
    posix.close(posix.open(beside, os.O_CREAT | os.O_EXCL))
    os.rename(beside, path)
    path.unlink()
    os.symlink(tmp_path, path)
    path.unlink()
    os.mkdir(path)
    os.rmdir(path)
    assert [event.what for event in recorded.events()] == ["unlink", "unlink"]


def test_a_full_disk_is_counted_and_does_not_reach_what_is_recorded():
    recorder = Recorder("/dev/full", "tokenizer")
    recorder.start()
    try:
        segment = shared_memory.SharedMemory(create=True, size=8)
        segment.close()
        segment.unlink()
        assert recorder.lost == 2
    finally:
        recorder.stop()


def test_spent_is_the_time_of_the_recorder_and_not_of_what_it_records(tmp_path, path, monkeypatch):
    """A send that is timed pays for the calls that it makes, and not for the account of them."""
    link = os.link

    def slow(*arguments):
        time.sleep(0.3)
        link(*arguments)

    monkeypatch.setattr(os, "link", slow)
    write_by_open(path)
    with Recorder(tmp_path / "events", "tokenizer", react=lambda event: time.sleep(0.1)) as recorder:
        os.link(path, other := f"{path}-2")
        assert 0.1 <= recorder.spent < 0.3
        recorder.thread = -1  # what other threads do is not the run's
        before = recorder.spent
        os.unlink(other)
        assert recorder.spent == before


def test_of_a_shared_dev_shm_the_suite_looks_at_the_names_in_its_ledger(tmp_path, monkeypatch, recorded):
    """If the suite cannot have a /dev/shm of its own, another program's names must not turn a test red."""
    (tmp_path / "ledger").touch()
    monkeypatch.setenv(recorder.LEDGER, str(tmp_path / "ledger"))
    before = machine.names()
    foreign = machine.SHM / f"somebody else's {os.getpid()}"
    with open(posix.open(foreign, os.O_CREAT | os.O_WRONLY, 0o600), "w", encoding="utf-8"):
        pass  # as another process makes it: unseen by the recorder
    ours = shared_memory.SharedMemory(create=True, size=8)
    try:
        assert machine.left_since(before) == {ours.name}
    finally:
        ours.close()
        ours.unlink()
        foreign.unlink()
