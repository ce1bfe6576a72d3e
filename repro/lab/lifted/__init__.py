"""Way 2: sglang's own functions, lifted out of a release, between two real processes, without the model."""
# ruff: noqa: E402

from repro.lab import packages

packages.require("zmq")

from repro.lab.lifted.experiment import Experiment, Run, run
from repro.lab.lifted.fault import Fault
from repro.lab.lifted.request import make_request
from repro.lab.upstream.plugs import as_fix

__all__ = ["Experiment", "Fault", "Run", "as_fix", "make_request", "run"]
