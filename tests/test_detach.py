"""The fix: exactly two places, no file changed, and a refusal where it does not belong."""

from __future__ import annotations

import ast
import asyncio
import copy
import hashlib
import importlib
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from fixed import detach
from repro.lab.refused import Refused
from repro.lab.upstream import expansion, source
from tests import machine

POINT = "tokenized_obj = copy.copy(tokenized_objs[i])"


def method(*bodies: str) -> str:
    """A `_handle_batch_request` with a loop for each body."""
    loops = "".join(f"    for i in range(1):\n        {body}\n" for body in bodies)
    return f"async def _handle_batch_request(self):\n{loops or '    pass'}"


def test_the_installed_function_has_two_expansion_points():
    assert len(expansion.expansion_points(detach.installed().read_text(encoding="utf-8"))) == 2


def test_rewritten_differs_in_two_lines_and_moves_none():
    before = detach.installed().read_text(encoding="utf-8")
    after = detach.rewritten(before, "here")
    changed = [pair for pair in zip(before.splitlines(), after.splitlines(), strict=True) if pair[0] != pair[1]]
    assert [new.strip() for _, new in changed] == ["tokenized_obj = detach(copy.copy(tokenized_objs[i]))"] * 2


def test_rewriting_twice_is_refused():
    once = detach.rewritten(detach.installed().read_text(encoding="utf-8"), "here")
    with pytest.raises(Refused, match="has 0 expansion points"):
        detach.rewritten(once, "here")


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("x = 1", 0),
        (method(), 0),
        (method(POINT), 1),
        (method(POINT, POINT, POINT), 3),
        (method(POINT, f"{POINT}\n        tokenized_obj.mm_inputs = 1"), 1),
        (method(POINT.replace("tokenized_objs", "objs"), POINT), 1),
    ],
)
def test_anything_but_two_is_refused(source, found):
    with pytest.raises(Refused, match=f"here has {found} expansion points .* not 2"):
        detach.rewritten(source, "here")


def test_diff_command():
    run = machine.command("-m", "fixed.detach", "--diff")
    assert run.returncode == 0
    signs = [line[0] for line in run.stdout.splitlines()]
    assert (signs.count("+") - 1, signs.count("-") - 1) == (2, 2)
    patch = subprocess.run(
        ["patch", "--dry-run", "--force", detach.installed()], input=run.stdout, encoding="utf-8", capture_output=True
    )
    assert patch.returncode == 0, patch.stdout


@pytest.mark.network
def test_diff_without_sglang_is_that_of_the_last_affected_release(tmp_path, monkeypatch):
    """With its wheel in the cache, nothing of it has to be installed."""
    monkeypatch.setattr(source, "installed_version", lambda: None)
    source.read("0.5.12.post1", source.TOKENIZER_MANAGER)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    run = machine.command("-m", "fixed.detach", "--diff", python=str(tmp_path / "bare" / "bin" / "python"))
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.count("detach(") == 2


def test_apply_changes_this_process_and_no_file(tmp_path, monkeypatch):
    """A module like upstream's, in a file: afterwards its function detaches, in the lines of the file, and the file is
    as it was."""
    body = method(POINT, f"{POINT}; yield tokenized_obj").replace("(self)", "(self, tokenized_objs)")
    file = tmp_path / "manager_of_this_test.py"
    file.write_text(f"import copy\nclass TokenizerManager:\n{textwrap.indent(body, '    ')}\n", encoding="utf-8")
    before = file.read_bytes()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(detach, "MODULE", file.stem)
    detach.apply(lambda copied: (copied, "detached"))
    manager = importlib.import_module(file.stem).TokenizerManager()
    made = manager._handle_batch_request(["request"])
    assert asyncio.run(anext(made)) == ("request", "detached")
    assert made.ag_code.co_filename == str(file)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert file.read_bytes() == before


def test_sglangs_files_are_as_released_after_the_fixed_engine_has_answered(fixed_engine):
    assert fixed_engine.outcome == "survived"
    table = dict(reversed(line.split()) for line in source.TABLE.read_text(encoding="utf-8").splitlines())
    for name in (source.TOKENIZER_MANAGER, source.MM_UTILS):
        code = source.read(source.INSTALLED, name)
        assert hashlib.sha256(code.path.read_bytes()).hexdigest() == table[f"{code.release}/sglang/{name}"]


def test_find_function_keeps_upstreams_line_numbers():
    source = detach.installed().read_text(encoding="utf-8")
    function = expansion.find_function(source)
    assert source.splitlines()[function.lineno - 1].lstrip().startswith("async def _handle_batch_request")
    assert isinstance(function, ast.AsyncFunctionDef)


@dataclass
class Request:
    mm_inputs: object = None
    rid: str = "r"
    extra: list = field(default_factory=list)


def test_detach_owns_the_way_to_the_feature_and_shares_the_feature():
    feature = object()
    source = Request(SimpleNamespace(mm_items=[SimpleNamespace(feature=feature), SimpleNamespace(feature=feature)]))
    copied = detach.detach(copy.copy(source))
    copied.mm_inputs.mm_items[0].feature = "pointer"
    assert source.mm_inputs.mm_items[0].feature is feature
    assert copied.mm_inputs.mm_items[1].feature is feature
    assert copied.mm_inputs.mm_items is not source.mm_inputs.mm_items
    assert copied.extra is source.extra


def test_detach_leaves_a_text_request_alone():
    source = Request(None)
    assert detach.detach(source) is source


def test_the_pair_differs_in_the_fix_and_the_promise_only():
    run = subprocess.run(
        ["diff", "repro/crash.py", "fixed/crash.py"], cwd=machine.ROOT, capture_output=True, encoding="utf-8"
    )
    repro = [line for line in run.stdout.splitlines() if line.startswith("<")]
    fixed = [line for line in run.stdout.splitlines() if line.startswith(">")]
    assert max(len(repro), len(fixed)) <= 8
    assert "> from fixed import detach" in fixed
    assert ">     detach.apply()" in fixed
    prose = ('"""', "promise=", "detach")
    assert all(any(word in line for word in prose) for line in repro + fixed), run.stdout
