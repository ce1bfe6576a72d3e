"""Which device a run takes: CUDA only where a GPU answers and this environment's own sgl_kernel loads."""

from __future__ import annotations

import json

import pytest

from repro.lab.machine import device
from tests import driver, machine

ASK = """
import json
from repro.lab import doctor
from repro.lab.machine import device
from repro.lab.refused import Refused
choice = device.choose("auto")
try:
    cuda = device.choose("cuda").device.name
except Refused as refusal:
    cuda = str(refusal)
print(json.dumps([choice.device.name, choice.why, cuda, str(doctor.gpu())]))
"""
LOADS, LACKS_A_LIBRARY = "", "raise ImportError('libcudart.so.12: cannot open shared object file')"
DIES = "import os; os.abort()"


def asked(**environment: str) -> list[str]:
    """What a Python in this environment chooses: the device and why; the answer to `cuda`; the doctor's line."""
    run = machine.command("-c", ASK, **environment)
    assert (run.returncode, run.stderr) == (0, "")
    return json.loads(run.stdout)


@pytest.fixture
def with_driver(tmp_path):
    """The environment of a machine with a driver and a GPU."""
    return driver.fake(tmp_path)


def test_without_a_driver_it_is_the_cpu():
    name, why, cuda, doctors = asked()
    assert (name, why) == ("cpu", "no GPU answers here")
    assert cuda == (
        "--device cuda, but no GPU answers here: use a machine with an NVIDIA driver and a GPU, or use --device cpu"
    )
    assert doctors.startswith("note no GPU answers here, the CPU is used: ")


def test_with_a_driver_and_no_sgl_kernel_it_is_the_cpu(with_driver):
    name, why, cuda, doctors = asked(**with_driver)
    assert (name, why) == ("cpu", "a GPU answers, but this environment has no sgl_kernel")
    assert "run `make gpu`" in cuda
    assert doctors.startswith(f"note {why}, the CPU is used: run `make gpu`")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (LACKS_A_LIBRARY, "does not load (ImportError: libcudart.so.12: cannot open shared object file)"),
        (DIES, "does not load (status -6)"),
    ],
)
def test_with_an_sgl_kernel_that_does_not_load_it_is_the_cpu(with_driver, tmp_path, code, reason):
    name, why, cuda, doctors = asked(**with_driver, **driver.kernels(tmp_path, code))
    assert (name, why) == ("cpu", f"a GPU answers, but this environment's sgl_kernel {reason}")
    assert cuda.startswith(f"--device cuda, but {why}: run `make gpu`")
    assert doctors.startswith(f"note {why}")


def test_with_a_driver_and_an_sgl_kernel_that_loads_it_is_cuda(with_driver, tmp_path):
    assert asked(**with_driver, **driver.kernels(tmp_path, LOADS)) == ["cuda", "", "cuda", "OK   a GPU, and sgl_kernel"]


def test_an_sgl_kernel_without_a_driver_is_not_even_tried(tmp_path):
    (tmp_path / "tried").mkdir()
    tells = f"import pathlib; pathlib.Path({str(tmp_path)!r}, 'imported').touch()"
    assert asked(**driver.kernels(tmp_path / "tried", tells))[:2] == ["cpu", "no GPU answers here"]
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("script", ["repro/crash.py", "fixed/crash.py"])
def test_cuda_where_there_is_none_is_one_line(script, with_driver):
    run = machine.command(script, "--device", "cuda", **with_driver)
    assert (run.returncode, run.stdout) == (2, "")
    assert len(run.stderr.splitlines()) == 1
    assert "this environment has no sgl_kernel" in run.stderr
    assert "make gpu" in run.stderr


def test_the_cpu_is_taken_without_a_word_if_it_is_asked_for():
    assert device.choose("cpu") == device.Choice(device.CPU)
