"""The drill: a case is dealt without its name. The reader answers, and the evidence speaks for or against the answer.

`shown` makes the text that the reader gets. `rules` reads this text and nothing else. `dealt` deals a case and judges
an answer.
"""

from repro.lab.drill.dealt import CAUSES, FIRSTS, Deal, deal
from repro.lab.drill.rules import Sign, named_by, signs

__all__ = ["CAUSES", "FIRSTS", "Deal", "Sign", "deal", "named_by", "signs"]
