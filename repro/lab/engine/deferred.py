"""Imports that a run does not use, put off until somebody uses them.

Half of the time that an engine's first process spends on imports goes into packages that a run with the tiny model on
a CPU never uses: torch._dynamo, which TORCHDYNAMO_DISABLE=1 switches off; IPython, which draws nothing in an engine;
the processors of other models. Placeholders stand in for these modules. The first use of a placeholder loads the real
module and passes the use on to it. So a run that needs one of these modules gets the real one, only later.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

NAMES = "SGLANG_SHM_KIT_DEFERRED"  # environment variable: the packages and modules that are put off
DYNAMO = "torch._dynamo"
UNUSED = (DYNAMO, "IPython")
# Names that other packages import from these modules while sglang is imported. Each is called later, or never.
TAKEN_BY_NAME = {
    "torch._dynamo.utils": ("is_compile_supported",),  # torchvision/ops/roi_align.py
    "torch._dynamo._trace_wrapped_higher_order_op": ("TransformGetItemToIndex",),  # transformers/masking_utils.py
    "IPython.display": ("HTML", "display"),  # sglang/utils.py
}
# If torch._dynamo is not loaded, it has no cache to clear. (torch.distributed asks if the name is in sys.modules.)
NOTHING_TO_CLEAR = ("torch._dynamo.trace_rules.clear_lru_cache",)
# Functions of torch.compiler that mark a function for torch._dynamo and return it.
MARKS = ("allow_in_graph", "assume_constant_result")

_deferred: set[str] = set()
_told_to_dynamo: list[Callable[[], object]] = []  # calls that are made when torch._dynamo is loaded


def install() -> None:
    """Put placeholders in the place of the modules that the environment variable NAMES lists. Call this before sglang
    is imported. A module that is imported already stays."""
    names = os.environ.get(NAMES, "").split(",")
    _deferred.update(name for name in names if name and name not in sys.modules)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    if DYNAMO in _deferred and os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        _do_without_dynamo()


def is_loaded(name: str) -> bool:
    """Whether the real package or module is loaded in this process."""
    module = sys.modules.get(name)
    return module is not None and not isinstance(module, _Placeholder)


def load(name: str) -> None:
    """Load the real package or module `name`, if it is put off. This removes its placeholders."""
    if name not in _deferred:
        return
    _deferred.discard(name)
    for found in [found for found, module in sys.modules.items() if isinstance(module, _Placeholder)]:
        if _is_part_of(found, name):
            parent, _, attribute = found.rpartition(".")
            if parent in sys.modules:
                vars(sys.modules[parent]).pop(attribute, None)
            del sys.modules[found]
    importlib.import_module(name)
    while name == DYNAMO and _told_to_dynamo:
        _told_to_dynamo.pop(0)()


def _is_part_of(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


class _Placeholder(ModuleType):
    """Stands in for a module. Any attribute that is not in the tables above loads the real package of the module."""

    def __getattr__(self, attribute: str) -> Any:
        name, full = self.__name__, f"{self.__name__}.{attribute}"
        if attribute in TAKEN_BY_NAME.get(name, ()):
            return _Later(name, attribute)
        if full in NOTHING_TO_CLEAR:
            return lambda: None
        if any(known.startswith(f"{full}.") for known in NOTHING_TO_CLEAR):
            return importlib.import_module(full)
        if attribute.startswith("__"):  # asked by the import system itself
            raise AttributeError(attribute)
        _load_for(name)
        return getattr(importlib.import_module(name), attribute)


class _Later:
    """A function or a class of a module that is not loaded yet. A call loads the module and calls the real one."""

    def __init__(self, module: str, attribute: str) -> None:
        self._module, self._attribute = module, attribute

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        _load_for(self._module)
        return getattr(importlib.import_module(self._module), self._attribute)(*arguments, **named)


def _load_for(name: str) -> None:
    for package in [package for package in _deferred if _is_part_of(name, package)]:
        load(package)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a placeholder for each module that is put off."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if any(_is_part_of(fullname, package) for package in _deferred):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> ModuleType:
        return _Placeholder(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to execute."""


def _do_without_dynamo() -> None:
    """Let the decorators for torch._dynamo work without loading torch._dynamo."""
    import torch
    import torch.compiler

    torch.compile = _compile
    torch.compiler.disable = _disable
    for name in MARKS:
        setattr(torch.compiler, name, functools.partial(_mark, name))


def _compile(model: Any = None, **_: Any) -> Any:
    """What `torch.compile` returns while TORCHDYNAMO_DISABLE is 1: the function itself."""
    return model if model is not None else lambda function: function


def _disable(fn: Any = None, recursive: bool = True, **named: Any) -> Any:
    """`torch.compiler.disable`, applied when the function is first called."""
    if fn is None:
        return lambda function: _disable(function, recursive, **named)

    @functools.wraps(fn)
    def disabled(*arguments: Any, **given: Any) -> Any:
        return _disabled(fn, recursive, **named)(*arguments, **given)

    return disabled


@functools.cache
def _disabled(fn: Any, recursive: bool, **named: Any) -> Any:
    load(DYNAMO)
    return sys.modules[DYNAMO].disable(fn, recursive, **named)


def _mark(name: str, fn: Any) -> Any:
    """The function `name` of torch.compiler: marks `fn` for torch._dynamo, now or when torch._dynamo is loaded."""
    if is_loaded(DYNAMO):
        return getattr(sys.modules[DYNAMO], name)(fn)
    _told_to_dynamo.append(lambda: getattr(sys.modules[DYNAMO], name)(fn))
    return fn
