"""The imports of the schedulers' warm parent (multiprocessing's forkserver), made before it forks a scheduler.

This module also lifts the installed release's functions, and lets torch compute once. The computation is so small that
torch starts no thread.
"""

from __future__ import annotations

import contextlib
import pickle

from repro.lab.lifted import scheduler_side  # noqa: F401
from repro.lab.lifted.request import checksums, make_request
from repro.lab.refused import Refused
from repro.lab.upstream.release import Release
from repro.lab.upstream.source import INSTALLED

with contextlib.suppress(Refused):  # the experiment will say why that release is not available
    Release.of(INSTALLED).mm_utils  # noqa: B018
checksums(pickle.loads(pickle.dumps(make_request(shape=(1, 1)))))
