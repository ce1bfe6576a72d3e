"""What the schedulers' warm parent imports before it forks any of them (multiprocessing's forkserver).

It lifts the installed release's functions, too, and has torch compute once, on so little that torch starts no thread.
"""

from __future__ import annotations

import contextlib
import pickle

from repro.lab.lifted import scheduler_side  # noqa: F401
from repro.lab.lifted.request import checksums, make_request
from repro.lab.refused import Refused
from repro.lab.upstream.release import Release
from repro.lab.upstream.source import INSTALLED

with contextlib.suppress(Refused):  # the experiment itself will say why that release cannot be had
    Release.of(INSTALLED).mm_utils  # noqa: B018
checksums(pickle.loads(pickle.dumps(make_request(shape=(1, 1)))))
