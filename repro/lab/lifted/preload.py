"""What the schedulers' warm parent does once, so that every fork has it done: import torch, lift the installed
release, and unpickle a first request (which imports more)."""

from __future__ import annotations

import contextlib
import pickle

from repro.lab.evidence.verdict import Refused
from repro.lab.lifted.request import checksums, make_request
from repro.lab.upstream import source, standins

with contextlib.suppress(Refused):  # without sglang, releases come from their wheels, when they are asked for
    standins.mm_utils(source.name_of(source.INSTALLED))
checksums(pickle.loads(pickle.dumps(make_request(shape=(1, 1)))))  # so small that torch starts no threads
