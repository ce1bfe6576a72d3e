"""Ten cases: the crash and nine relatives. `make("missing-barrier")` makes one of them in the lab, and returns its
result with all its evidence.

`case` says what a case is. `table` lists the ten. `stage` is the place where a case is made, and `acts` has what
happens there. `found` is the result. `apart` makes a case in processes of its own, if the case needs them. `command`
writes what the terminal shows.
"""

from repro.lab.cases.found import Found
from repro.lab.cases.making import make
from repro.lab.cases.table import CASES

__all__ = ["CASES", "Found", "make"]
