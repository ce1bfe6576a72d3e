"""A machine with an NVIDIA driver, as far as a process can tell that asks the driver: a library that counts one GPU."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = "int cuInit(unsigned flags) { return 0; } int cuDeviceGetCount(int *count) { *count = 1; return 0; }"


def fake(folder: Path) -> dict[str, str]:
    """The environment in which `libcuda.so.1` is the library in `folder`, which is compiled now. Skips the test where
    there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler here, so no fake driver: apt-get install gcc")
    (folder / "driver.c").write_text(SOURCE, encoding="utf-8")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libcuda.so.1", folder / "driver.c"], check=True)
    return {"LD_LIBRARY_PATH": str(folder)}


def kernels(folder: Path, code: str) -> dict[str, str]:
    """The environment in which `sgl_kernel` is a package with this code."""
    (folder / "sgl_kernel").mkdir()
    (folder / "sgl_kernel" / "__init__.py").write_text(code, encoding="utf-8")
    return {"PYTHONPATH": str(folder)}
