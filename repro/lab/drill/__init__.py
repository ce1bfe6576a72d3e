"""The drill: a case is shown without its name, and the evidence judges the reader's answer.

`shown` makes the text that the reader gets, `rules` reads that text and nothing else, `dealt` deals and judges.
"""

from repro.lab.drill.dealt import CAUSES, FIRSTS, Deal, deal
from repro.lab.drill.rules import Sign, named_by, signs

__all__ = ["CAUSES", "FIRSTS", "Deal", "Sign", "deal", "named_by", "signs"]
