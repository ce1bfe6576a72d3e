"""Imports that are put off: nothing but the real module ever answers."""

from __future__ import annotations

import json

import pytest

from repro.lab import engine
from repro.lab.engine import boot, deferred
from tests import machine

PACKAGE = {
    "__init__.py": "from later import part\nlog = []\ndef mark(function): log.append(function); return function",
    "part.py": "class Thing:\n    def __init__(self, size): self.size = size\nanswer = 42",
}


@pytest.fixture
def later(tmp_path):
    """Runs code in a Python in which the package `later` is put off; returns what it prints, as JSON."""
    (tmp_path / "later").mkdir()
    for name, code in PACKAGE.items():
        (tmp_path / "later" / name).write_text(code, encoding="utf-8")

    def run(code: str) -> object:
        begin = f"import json, sys; sys.path.insert(0, {str(tmp_path)!r}); from repro.lab.engine import deferred\n"
        begin += "deferred.TAKEN_BY_NAME['later.part'] = ('Thing',)\ndeferred.install()\n"
        told = machine.command("-c", begin + code, **{deferred.NAMES: "later,never"})
        assert told.returncode == 0, told.stderr
        return json.loads(told.stdout)

    return run


def test_an_import_alone_loads_nothing(later):
    assert later("import later.part\nprint(json.dumps(deferred.is_loaded('later')))") is False


def test_a_name_that_is_taken_is_the_real_one_when_it_is_called(later):
    code = "from later.part import Thing\nbefore = deferred.is_loaded('later')\nthing = Thing(3)\n"
    code += "import later.part\nprint(json.dumps([before, thing.size, type(thing) is later.part.Thing]))"
    assert later(code) == [False, 3, True]


def test_any_other_attribute_loads_the_real_module(later):
    assert later("import later.part\nprint(json.dumps([later.part.answer, deferred.is_loaded('later.part')]))") == [
        42,
        True,
    ]


def test_what_holds_a_placeholder_gets_the_real_attributes(later):
    code = "import later.part as held\nimport later\nlater.log\nprint(json.dumps([type(held).__name__, held.answer]))"
    assert later(code) == ["_Placeholder", 42]


def test_what_is_not_there_is_not_there_either(later):
    code = "import never\ntry: never.x\nexcept ImportError as error: print(json.dumps(error.name))"
    assert later(code) == "never"


TORCH = """
import json, sys
import torch, torch.compiler
from repro.lab.engine import deferred

def f(x):
    return x + 1

def done(compile, disable, allow_in_graph, assume_constant_result):
    compiled = [compile(f) is f, compile(dynamic=True)(f) is f]
    disabled = [disable(f)(1), disable(recursive=False)(f)(1)]
    return [compiled, disabled, [allow_in_graph(f) is f, assume_constant_result(f) is f]]

def functions():
    compiler = torch.compiler
    return torch.compile, compiler.disable, compiler.allow_in_graph, compiler.assume_constant_result

real = functions()
deferred.install()
torch.compiler.assume_constant_result(f)
before = [deferred.is_loaded("torch._dynamo"), hasattr(f, "_dynamo_marked_constant")]
put_off = done(*functions())
after = [deferred.is_loaded("torch._dynamo"), hasattr(f, "_dynamo_marked_constant")]
print(json.dumps({"before": before, "after": after, "put off": put_off, "real": done(*real)}))
"""


@pytest.fixture(scope="module")
def torchs():
    """What torch's functions return with torch._dynamo put off, and what the real ones return afterwards."""
    run = machine.command("-c", TORCH, TORCHDYNAMO_DISABLE="1", **{deferred.NAMES: deferred.DYNAMO})
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_torch_does_the_same_with_its_compiler_put_off(torchs):
    """With TORCHDYNAMO_DISABLE=1 the real `torch.compile` returns its argument; so it does with torch._dynamo away."""
    assert torchs["put off"] == torchs["real"] == [[True, True], [2, 2], [True, True]]


def test_torch_dynamo_is_loaded_by_the_first_call_that_needs_it_and_told_what_it_missed(torchs):
    assert torchs["before"] == [False, False]
    assert torchs["after"] == [True, True]


def test_only_what_the_tiny_model_does_not_need_is_put_off():
    environment = engine.environment("tiny", engine.CPU)
    names = environment[deferred.NAMES].split(",")
    assert names[:2] == list(deferred.UNUSED)
    assert f"{boot.PROCESSORS}.clip" in names
    assert f"{boot.PROCESSORS}.qwen_vl" not in names
    assert engine.environment("org/other", engine.CPU)[deferred.NAMES].split(",") == list(deferred.UNUSED)


def test_where_sglang_spawns_nothing_is_put_off():
    for environment in (engine.environment("tiny", engine.CPU, spawn=True), engine.environment("tiny", engine.CUDA)):
        assert deferred.NAMES not in environment
        assert environment[engine.START_METHOD] == "spawn"
