"""Every run ends within its limit with a verdict, leaves nothing, and the next run in the same process works."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import shared_memory

import pytest

from fixed.designs import ONE_SEGMENT
from fixed.detach import detach
from repro.lab import folders, limits
from repro.lab.lifted import Fault, make_request, run
from repro.lab.lifted.pool import pool
from repro.lab.places import SHM
from repro.lab.refused import Refused
from repro.lab.releases import CONTAINED, LAST
from repro.lab.upstream.plugs import Plug
from tests import machine

WRAP = "sglang.srt.managers.mm_utils.wrap_shm_features"
LONG = "x" * 95  # characters of a folder's name: with it, no socket fits below the folder


@pytest.fixture(autouse=True)
def the_next_run_works():
    """Whatever happened to a run, the next run works, and no thread of the first run lives on."""
    yield
    assert run(n=2, fix=detach).faults() == []
    assert "tokenizer" not in [thread.name for thread in threading.enumerate()]


@contextlib.contextmanager
def meanwhile(work) -> None:
    """A context during which `work()` runs on another thread."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def when_sent(do):
    """A function that waits until a name was made, and then calls `work`."""
    before = machine.names()
    return lambda: (machine.wait_for(lambda: machine.names() - before, 20, "a name"), do())


def loops(request):
    while True:
        pass


def test_code_of_the_reader_that_loops_is_a_hang():
    result = run(n=2, fix=loops, timeout=0.3)
    assert (result.verdict.outcome, result.verdict.error) == ("hung", "no end within the limit")


def test_code_of_the_reader_that_blocks_is_a_hang():
    free = threading.Event()
    result = run(n=2, fix=lambda request: free.wait(60), timeout=0.3)
    free.set()  # the thread that was left behind ends
    assert result.verdict.outcome == "hung"
    machine.wait_for(lambda: "tokenizer" not in {thread.name for thread in threading.enumerate()}, 5, "the thread")


@pytest.mark.parametrize("raised", [SystemExit("enough"), KeyboardInterrupt()])
def test_code_of_the_reader_that_leaves_does_not_end_this_process(raised):
    def leaves(request):
        raise raised

    assert run(n=2, fix=leaves).verdict.error == type(raised).__name__


def test_a_rank_that_dies_while_another_waits_in_the_barrier():
    """Rank 0 waits in the barrier. Rank 1 is late, and it is killed meanwhile. Rank 0 must not conclude that the
    tokenizer has died, and must not remove the tokenizer's folders."""

    run(n=1, ranks=2)
    rank_1 = pool.alive[2].processes[1].pid
    with meanwhile(when_sent(lambda: os.kill(rank_1, signal.SIGKILL))):
        result = run(n=1, ranks=2, late=2.0, timeout=5)
    assert (result.verdict.outcome, result.verdict.error) == ("crashed", "scheduler killed by SIGKILL")
    assert run(n=1, ranks=2).faults() == []


def test_a_scheduler_that_died_while_it_was_idle_is_replaced():
    run(n=1)
    process = pool.alive[1].processes[0]
    process.kill()
    process.join()
    assert run(n=1).faults() == []


def test_ctrl_c_in_the_middle_of_a_run_leaves_no_thread_no_name_and_no_folder():
    run(n=1)
    before, kept = machine.names(), set(folders.where().glob("shm-kit-*"))
    with meanwhile(when_sent(lambda: os.kill(os.getpid(), signal.SIGINT))), pytest.raises(KeyboardInterrupt):
        run(n=1, ranks=2, late=30.0, timeout=60)
    assert machine.left_since(before) == set()
    assert set(folders.where().glob("shm-kit-*")) == kept


def test_ctrl_c_during_a_wait_for_a_thread_stops_this_thread():
    """Up to Python 3.12, a `join` that is interrupted takes the living thread for a dead one."""
    with meanwhile(lambda: (time.sleep(0.3), os.kill(os.getpid(), signal.SIGINT))), pytest.raises(KeyboardInterrupt):
        limits.within(20, lambda: loops(None))
    assert "reader" not in [thread.name for thread in threading.enumerate()]


def test_ctrl_c_waits_where_something_would_be_left_half_done():
    done = []

    def presses(word):
        signal.raise_signal(signal.SIGINT)
        done.append(word)

    with pytest.raises(KeyboardInterrupt), limits.uninterrupted():
        presses("in spite of it")
    with pytest.raises(KeyboardInterrupt), limits.uninterrupted(), limits.interruptible():
        presses("never")

    def comes_to_a_wait():
        presses("before the wait")
        with limits.interruptible():
            done.append("never")

    with pytest.raises(KeyboardInterrupt), limits.uninterrupted():
        comes_to_a_wait()
    assert done == ["in spite of it", "before the wait"]


def test_thousands_of_samples_do_not_wait_for_each_other():
    """A socket of ZMQ queues 1,000 messages by default, and then waits. sglang's sockets have no such limit."""
    result = run(make_request("text"), n=3000, timeout=60)
    assert len(result.verdict.answers) == 3000


def test_a_name_that_another_thread_makes_meanwhile_is_its_own():
    made = []

    def makes_names():
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            made.append(shared_memory.SharedMemory(create=True, size=8))
            time.sleep(0.01)

    with meanwhile(makes_names):
        while len(made) < 20:
            assert run(make_request(shape=(4, 8)), n=2, fix=detach).faults() == []
    assert [segment for segment in made if segment.name not in machine.names()] == []
    for segment in made:
        segment.close()
        segment.unlink()


def test_a_failed_send_has_a_true_time_and_the_clean_up_afterwards_is_not_its_own():
    """Design 5 removes the failed send's name within that send, and the name of the send that will not come later."""
    result = run(n=2, fix=ONE_SEGMENT, fault=Fault("fail", send=1))
    assert 0 <= result.sends[1].seconds < 5
    cleaned = [event for event in result.events if event.what == "unlink" and event.role == "tokenizer"]
    assert [event.send for event in cleaned] == [1, None]


PROGRAM = "from repro.lab.lifted import run\nprint(run(n=2).verdict.is_the_crash())\n"


def program(how: list[str], **options) -> subprocess.CompletedProcess:
    """A program of its own that uses the lab, without a main guard."""
    environment = {**os.environ, "PYTHONPATH": str(machine.ROOT), **options.pop("environment", {})}
    return subprocess.run(
        [sys.executable, *how], env=environment, capture_output=True, encoding="utf-8", timeout=120, **options
    )


def test_a_script_without_a_main_guard_in_a_long_tmpdir_and_a_locale_without_utf_8(short_path):
    """The path of such a folder is too long for sockets, so the sockets are in /tmp. Nothing is left in either
    folder."""
    long, script = short_path / LONG, short_path / "script.py"
    long.mkdir()
    script.write_text(f"{PROGRAM}import repro.lab.folders as f\nprint(f.where())\n", encoding="utf-8")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    told = program([str(script)], cwd=short_path, environment={"TMPDIR": str(long), **plain})
    assert (told.stdout, told.stderr, told.returncode) == ("True\n/tmp\n", "", 0)
    assert os.listdir(long) == []


def test_code_on_standard_input_works_and_when_it_is_killed_no_folder_is_left(short_path):
    """No folder of the kit and none of multiprocessing is left: the schedulers notice that the process has ended, and
    remove them. A notebook's kernel ends in the same way when it is shut down."""
    code = f"{PROGRAM}import os, sys\nsys.stdout.flush()\nos.kill(os.getpid(), 9)\n"
    told = program(["-"], input=code, environment={"TMPDIR": str(short_path)})
    assert (told.stdout, told.stderr, told.returncode) == ("True\n", "", -signal.SIGKILL)
    machine.wait_for(lambda: os.listdir(short_path) == [], 10, f"folders to go, of {os.listdir(short_path)}")


def test_without_inotify_the_lab_works_and_says_what_is_missing(monkeypatch):
    import inotify_simple

    def used_up(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(inotify_simple, "INotify", used_up)
    result = run(n=2)
    assert result.verdict.is_the_crash()
    assert result.kernel == []
    assert "max_user_instances" in result.notes[0]


@pytest.mark.long
def test_a_run_that_has_no_descriptor_left_is_not_the_recorders_fault():
    """Then sglang's own open fails, in its own place. The recorder has its file open already and raises nothing."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        "from repro.lab.lifted import run, make_request; import json\n"
        "v = run(make_request(shape=(2, 8), items=300), n=1).verdict\n"
        "print(v.outcome, v.errno, v.segment, v.where)"
    )
    told = program(["-c", code])
    outcome, errno, segment, *where = told.stdout.split()
    assert (outcome, errno, where[-1]) == ("crashed", "24", "__setstate__"), told.stdout + told.stderr
    assert segment.startswith("/psm_")


def removes(original, request):
    """Wraps the request, and then removes its names."""
    wrapped = original(request)
    for item in wrapped.items():
        (SHM / item.feature.shm_name.lstrip("/")).unlink()
    return wrapped


def test_a_name_that_somebody_else_removed_is_another_death():
    """A logout or a parent's resource tracker can remove a name. This gives the same error in the same place, but it is
    not this bug."""

    verdict = run(n=1, fix=Plug(hooks={WRAP: removes})).verdict
    assert (verdict.error, verdict.errno) == ("FileNotFoundError", 2)
    assert verdict.where.endswith(" __setstate__")
    assert not verdict.is_the_crash()


@pytest.mark.network
@pytest.mark.parametrize(("release", "outcome"), [(LAST, "crashed"), ("0.5.18", "crashed"), (CONTAINED, "refused")])
def test_where_a_server_would_live_on_the_scheduler_does(release, outcome):
    """If another process has removed the name, the scheduler ends. From 0.5.19 on, only the request fails."""
    fix = Plug(hooks={WRAP: removes})
    results = [run(n=1, release=release, fix=fix), run(n=1, release=release)]
    assert [result.verdict.outcome for result in results] == [outcome, "survived"]
    schedulers = [{event.pid for event in result.events if event.role == "scheduler"} for result in results]
    assert (schedulers[0] == schedulers[1]) == (outcome == "refused")
    assert bool(results[0].sends[0].failed) == (outcome == "refused")


@pytest.mark.network
def test_all_ranks_refuse_what_one_rank_cannot_read():
    """One rank that fails decides for all ranks, as with sglang's all_reduce. Here rank 0 has read the pixels."""
    result = run(n=1, ranks=2, barrier=False, late=0.3, release=CONTAINED)
    assert (result.verdict.outcome, result.verdict.error) == ("refused", "RuntimeError")
    assert "rank" in result.sends[0].failed
    assert result.log.count("Failed to materialize") == 1


def test_a_run_is_told_in_the_singular():
    assert repr(run(n=1)) == "<Run survived: 1 answer; 1 send, 1 name>"


def test_a_hook_with_a_typo_is_refused():
    path = "sglang.srt.managers.mm_util.wrap_shm_features"
    with pytest.raises(Refused, match=f"nothing of {path} is lifted"):
        run(fix=Plug(hooks={path: lambda original, *given: original(*given)}))


@pytest.mark.long
def test_fifty_runs_in_which_anything_goes_wrong(short_path):
    """Faults, kills and interrupts at any moment, in one process: no run hangs, nothing is left, and no other program's
    name is touched. (`python -m tests.faults 1000 2026` is the long version.)"""
    ended = machine.command("-m", "tests.faults", 50, 1, folder=short_path)
    assert ended.returncode == 0, ended.stderr[-2000:]
    told = json.loads(ended.stdout)
    assert (told["runs"], told["foreign"], sum(told["troubles"].values())) == (50, 50, 50)
    assert min(told["troubles"].get(what, 0) for what in ("fault", "kill", "interrupt")) > 0
    wrong = {what: told[what] for what in ("hung", "left", "wrong", "touched", "threads", "folders", "last")}
    assert wrong == {what: [] for what in wrong}
    assert os.listdir(short_path) == []


IN_THE_BACKGROUND = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
words = "-m pytest -q -p no:cacheprovider tests/test_endings.py -k ctrl_c_waits".split()
os.execv(sys.executable, [sys.executable, *words])
"""


def test_a_suite_that_was_started_in_the_background_of_a_script_can_interrupt_its_children():
    run = machine.command("-c", IN_THE_BACKGROUND)
    assert run.returncode == 0, run.stdout
    assert "1 passed" in run.stdout
