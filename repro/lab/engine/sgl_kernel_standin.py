"""A stand-in for `sgl_kernel`, which has only CUDA builds and which sglang imports on every machine.

The stand-in can be imported, but every call raises. So a run that needs a kernel cannot pass by accident. sglang's own
CPU unit tests stub the package in the same way.

The real package also registers operators with torch. Models of newer releases look up `torch.ops.sgl_kernel.NAME_cpu`
when they are imported. If OPERATORS is set, the stand-in has these operators, too. OPERATORS is not always set, because
an older release tests whether an operator is there, and would then take another branch.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from types import ModuleType

PACKAGE = "sgl_kernel"
OPERATORS = "SGLANG_SHM_KIT_STANDIN_OPERATORS"  # environment variable: 1 if the stand-in has operators, too


def install_if_missing() -> bool:
    """Put the stand-in in place if the real package cannot be imported; return whether it was put there."""
    if importlib.util.find_spec(PACKAGE) is not None:
        try:
            importlib.import_module(PACKAGE)
            return False
        except Exception:  # installed, but without the CUDA libraries that it links to
            for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
                del sys.modules[name]
    sys.meta_path.insert(0, _Finder())
    if os.environ.get(OPERATORS) == "1":
        _stand_in_for_operators()
    return True


def _stand_in_for_operators() -> None:
    """From now on, `torch.ops.sgl_kernel.NAME_cpu` can be looked up, but not called."""
    from torch import _ops

    original = _ops._OpNamespace.__getattr__

    def look_up(namespace, name: str) -> object:
        try:
            return original(namespace, name)
        except AttributeError:
            if namespace.name == PACKAGE and name.endswith("_cpu"):
                return _MissingKernel(f"torch.ops.{PACKAGE}.{name}")
            raise

    _ops._OpNamespace.__getattr__ = look_up


class _MissingKernel:
    """The value of every attribute of the stand-in. It can be passed around, but not called."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> _MissingKernel:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return _MissingKernel(f"{self._name}.{attribute}")

    def __call__(self, *arguments: object, **named: object) -> None:
        raise RuntimeError(f"{self._name} was called, but sgl_kernel cannot be imported here: this is its stand-in")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `sgl_kernel` and whatever is imported from below it."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] == PACKAGE:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec):
        return None

    def exec_module(self, module: ModuleType) -> None:
        def missing(attribute: str) -> _MissingKernel:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            return _MissingKernel(f"{module.__name__}.{attribute}")

        module.__getattr__ = missing
