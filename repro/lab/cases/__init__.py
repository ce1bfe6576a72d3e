"""The relatives of the crash, each made anew in the lab: `make("missing-barrier")` says what became of it.

`case` says what a case is, `table` lists the ten, `stage` is where one is made, `acts` is what happens on it, `found`
what came of it, `apart` a process of its own for those that need one, `command` what the terminal shows.
"""

from repro.lab.cases.found import Found
from repro.lab.cases.making import make
from repro.lab.cases.table import CASES

__all__ = ["CASES", "Found", "make"]
