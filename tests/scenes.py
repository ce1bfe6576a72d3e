"""The scenes that tests run in a child under a warden. Each takes the scene's arguments and returns JSON."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import unittest
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import get_context, shared_memory
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

import psutil

from repro.lab import engine
from repro.lab.evidence.recorder import note
from repro.lab.places import SHM
from repro.lab.server.clients import listening
from repro.lab.upstream import plugs

# name -> (colours of the images, one a prompt; n; how many answers)
CASES = {
    "n = 1": (["crimson"], 1),
    "text only, n = 4": ([], 4),
    "n = 2": (["crimson"], 2),
    "n = 3": (["crimson"], 3),
    "n = 8": (["crimson"], 8),
    "two prompts, n = 2": (["crimson", "navy"], 2),
    "another image": (["navy"], 1),
}

# name -> (how many images in one prompt, n)
API_CASES = {"text only, n = 4": (0, 4), "an image, n = 1": (1, 1), "two images, n = 2": (2, 2)}


def engine_cases(arguments: Namespace) -> dict[str, list[str]]:
    """The answers to `arguments.cases`, one engine for all of them. Notes each case's answers as they come, so
    that those before a crash are kept. With `arguments.fixed`, the fix is applied first."""
    if arguments.fixed:
        from fixed import detach

        detach.apply()
    llm = engine.start("tiny", "cpu")
    note("listens", sockets=listening(psutil.Process()))
    return ask_all(llm, arguments.cases)


def server_cases(arguments: Namespace) -> list[str]:
    """sglang's server gets the requests that it survives, and then an image with n = 2 while others stream. With
    `arguments.fixed`, the fix is applied first."""
    from repro.lab import server
    from repro.lab.server.plan import image_url, question

    if arguments.fixed:
        from fixed import detach

        detach.apply()
    images = [image_url(colour=colour) for colour in ("crimson", "navy")]
    before = [question("What is this?", images=images[:count], n=n) for count, n in API_CASES.values()]
    culprit = question("What is this?", images=images[:1], n=arguments.n)
    return server.serve("tiny", "cpu", others=4, culprit=culprit, before=before)


def scheduler_killed(arguments: Namespace) -> None:
    """Like `engine_cases`; then a request for `arguments.n` samples, whose scheduler is killed when it could take the
    first. With the hotfix, which has made a name for each send by then."""
    llm = engine.start("tiny", "cpu")
    note("hooks", bare=without_hooks(), served=served_by_uvicorn())
    ask_all(llm, arguments.cases)
    scheduler = next(child for child in psutil.Process().children() if "sglang::scheduler" in " ".join(child.cmdline()))
    scheduler.suspend()
    note("suspended")
    threading.Thread(target=kill_when_sent, args=(scheduler, arguments.n + 1), daemon=True).start()
    ask(llm, ["crimson"], arguments.n)


def without_hooks() -> list[str]:
    """The functions that design 5 should wrap and that are not wrapped, in every module that imported them."""
    import uvicorn
    from sglang.srt.entrypoints import engine, http_server
    from sglang.srt.managers import mm_utils, tokenizer_manager
    from sglang.srt.utils import common

    places = [
        (tokenizer_manager.TokenizerManager, "_handle_batch_request"),
        (tokenizer_manager.TokenizerManager, "_send_one_request"),
        (tokenizer_manager, "wrap_shm_features"),
        (mm_utils, "wrap_shm_features"),
        (mm_utils.ShmPointerMMData, "__init__"),
        *((module, "kill_process_tree") for module in (common, engine, http_server, tokenizer_manager)),
        (uvicorn, "run"),
    ]
    return [f"{owner.__name__}.{name}" for owner, name in places if not hasattr(getattr(owner, name), "__wrapped__")]


def served_by_uvicorn() -> list[str]:
    """Which app a hooked `uvicorn.run` serves: sglang's by its name, as for workers; another; sglang's itself."""
    import uvicorn
    from sglang.srt.entrypoints import http_server

    served: list[str] = []
    hook = uvicorn.run.__closure__
    hook = next(cell.cell_contents for cell in hook if getattr(cell.cell_contents, "__name__", "").startswith("run_"))
    for app in ("sglang.srt.entrypoints.http_server:app", "somebody.elses:app", http_server.app):
        hook(lambda app, **_: served.append(app if isinstance(app, str) else type(app).__name__), app, workers=2)
    return served


def kill_when_sent(scheduler: psutil.Process, sends: int) -> None:
    """Kill it once this process has made so many names."""
    while len(names := [name for name in os.listdir(SHM) if name.startswith(f"sgl_shm_mm_{os.getpid()}_")]) < sends:
        time.sleep(0.01)
    note("killing", names=names)
    scheduler.kill()


def ask_all(llm: Any, cases: list[str]) -> dict[str, list[str]]:
    """The answers to each case, noted as they come."""
    answers = {}
    for case in cases:
        answers[case] = ask(llm, *CASES[case])
        note("case", case=case, answers=answers[case])
    return answers


def ask(llm: Any, colours: list[str], n: int) -> list[str]:
    """The texts of n samples for each prompt, one prompt an image (or one without an image), at temperature 0."""
    from PIL import Image

    prompt = [engine.chat(engine.PROMPT)] * len(colours) or [engine.chat(engine.PROMPT, picture=False)]
    image = [Image.new("RGB", (112, 112), colour) for colour in colours] or None
    one = len(prompt) == 1
    answers = llm.generate(
        prompt=prompt[0] if one else prompt,
        image_data=image[0] if one and image else image,
        sampling_params={"n": n, "max_new_tokens": 8, "temperature": 0},
    )
    return [answer["text"] for answer in (answers if isinstance(answers, list) else [answers])]


def upstreams_test(arguments: Namespace) -> dict[str, list[int]]:
    """How many cases of `tests/upstream` ran, failed, and broke down, on the installed package: as released, and with
    the fix applied; then with each mutant of a fixed release; and those about rooms, as released and fixed."""
    sys.path.insert(0, str(Path(__file__).parent / "upstream"))
    engine.import_sglang()
    ownership = importlib.import_module("test_parallel_sampling_shm_ownership")
    rooms = importlib.import_module("test_parallel_sampling_bootstrap_room")
    from fixed import bootstrap_room, detach
    from fixed.later_mutants import LATER_MUTANTS

    def outcome(test: Any, hooks: Mapping[str, Callable] = MappingProxyType({})) -> list[int]:
        with hooked_everywhere(hooks):
            result = unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromModule(test))
        return [result.testsRun, len(result.failures), len(result.errors)]

    told = {"before": outcome(ownership), "rooms": outcome(rooms)}
    told |= {each.name: outcome(ownership, each.hooks) for each in LATER_MUTANTS if each.undone == (1, 2)}
    detach.apply()
    told |= {"after": outcome(ownership), "rooms, fixed": outcome(rooms, bootstrap_room.HOOKS)}
    return told | {each.name: outcome(ownership, each.hooks) for each in LATER_MUTANTS if not each.undone}


@contextlib.contextmanager
def hooked_everywhere(hooks: Mapping[str, Callable]) -> Iterator[None]:
    """While the context lasts, each hook stands around its function of the installed package, in both modules that have
    it by name."""
    from sglang.srt.managers import mm_utils, tokenizer_manager

    with contextlib.ExitStack() as undo:
        for path, hook in hooks.items():
            owner, _, name = path.removeprefix("sglang.srt.managers.").rpartition(".")
            module, _, kind = owner.partition(".")
            home = {"mm_utils": mm_utils, "tokenizer_manager": tokenizer_manager}[module]
            for holder in [getattr(home, kind)] if kind else [mm_utils, tokenizer_manager]:
                if original := vars(holder).get(name):
                    undo.enter_context(mock.patch.object(holder, name, plugs.around(original, hook)))
        yield


def what_it_finds(arguments: Namespace) -> dict[str, Any]:
    """The traces of earlier scenes that this scene can see. At the end it leaves traces for the next scene."""
    import tempfile

    parent = psutil.Process(os.getppid())
    found = {
        "pid": os.getpid(),
        "session": os.getsid(0),
        "parent": parent.pid,
        "grandparent": parent.ppid(),
        "folder": tempfile.gettempdir(),
        "imported": "sglang.srt.entrypoints.engine" in sys.modules,
        "marked": getattr(sys, "marked_by_a_scene", None),
        "variable": os.environ.get("KIT_TEST"),
        "directory": os.getcwd(),
    }
    sys.marked_by_a_scene = True
    os.environ["KIT_TEST"] = "left"
    os.chdir("/")
    return found


def loaded_after_an_answer(arguments: Namespace) -> dict[str, bool]:
    """The put-off packages that are loaded after an engine has answered."""
    from repro.lab.engine import deferred

    ask(engine.start("tiny", "cpu"), ["crimson"], 1)
    return {name: deferred.is_loaded(name) for name in deferred.UNUSED}


def another_death(arguments: Namespace) -> None:
    """Dies of the right exception at the wrong place, on a name that never existed."""
    raise FileNotFoundError(2, "No such file or directory", "/psm_never")


def in_setstate(arguments: Namespace) -> None:
    """Dies where #24231 dies, but of a name that nobody had created."""

    def __setstate__() -> None:
        shared_memory.SharedMemory(name="psm_never")

    __setstate__()


def killed(arguments: Namespace) -> None:
    """Dies without printing anything."""
    os.kill(os.getpid(), getattr(signal, arguments.signal))


def hanging(arguments: Namespace) -> None:
    """Never ends."""
    note("phase", phase="generate")
    time.sleep(600)


def littering(arguments: Namespace) -> str:
    """Leaves a segment, a plain file in /dev/shm, a semaphore and a daemon in a session of its own."""
    os.close(os.open("/dev/shm/plain-file-of-shm-kit", os.O_CREAT | os.O_RDWR))
    shared_memory.SharedMemory(create=True, size=8)
    get_context("spawn").Semaphore()
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    note("phase", phase="generate")
    if arguments.then == "hang":
        time.sleep(600)
    os.kill(os.getpid(), signal.SIGKILL)


def gone_at_once(arguments: Namespace) -> list[str]:
    """A scheduler that makes a name, removes the name and ends before the warden looks."""
    import setproctitle

    scheduler = os.fork()
    if not scheduler:
        setproctitle.setproctitle("sglang::scheduler")
        segment = shared_memory.SharedMemory(create=True, size=8)
        segment.unlink()
        os._exit(0)
    os.waitpid(scheduler, 0)
    return ["an answer"]


def forks(arguments: Namespace) -> list[str]:
    """A scheduler that forks a child, as it does before it runs another program: for a while both have one title."""
    import setproctitle

    note("phase", phase="generate")
    scheduler = os.fork()
    if not scheduler:
        setproctitle.setproctitle("sglang::scheduler")
        child = os.fork()
        time.sleep(0.5)
        if child:
            os.waitpid(child, 0)
        os._exit(0)
    os.waitpid(scheduler, 0)
    return ["an answer"]


def kernel(arguments: Namespace) -> None:
    """Calls a kernel that only a GPU has."""
    from repro.lab.engine import sgl_kernel_standin

    sgl_kernel_standin.install_if_missing()
    from sgl_kernel.kvcacheio import transfer_kv_all_layer

    transfer_kv_all_layer(1)
