"""`python -m repro.lab.drill`: what has happened here, and what do you do first?"""

from __future__ import annotations

import random
import sys
from argparse import Namespace
from collections.abc import Sequence

from repro.lab.drill.dealt import CAUSES, FIRSTS, Deal, deal
from repro.lab.refused import Refused
from repro.lab.terminal import OneLineParser, command, progress

SEEDS = 1000  # without --seed, one of so many seeds is drawn


@command(name="repro.lab.drill")
def main(words: Sequence[str] | None = None) -> int:
    """Returns 0 if the answer is right or the reader has left, 1 if the answer is wrong, 2 for bad input or if the case
    cannot be made here, 130 after Ctrl-C."""
    try:
        arguments = parse(words)
        with progress(sys.stderr):
            dealt = deal(arguments.seed, arguments.case)
        return asked(dealt, arguments.answer)
    except EOFError:
        print()
        return 0
    except KeyboardInterrupt:
        return 130


def asked(dealt: Deal, answer: Sequence[str] | None) -> int:
    """Show the case, take the answer, and print what speaks for and against it. Returns 0 if the answer is right, else
    1. Raises Refused if `answer` is not two valid numbers, and EOFError if the reader leaves."""
    if answer:
        cause, first = number(answer[0], CAUSES), number(answer[1], FIRSTS)
    print(f"seed {dealt.seed}\n\n{dealt}\n\ncauses\n{numbered(CAUSES)}\n\nfirst things to do\n{numbered(FIRSTS)}\n")
    if not answer:
        cause, first = typed("the cause", CAUSES), typed("the first thing to do", FIRSTS)
    print("\n".join(dealt.judged(cause, first)))
    return int(not dealt.is_right(cause, first))


def typed(what: str, choices: Sequence[str]) -> int:
    """The number of a choice that the reader types, after the question for `what`. At a terminal, the question is asked
    again if the answer is no such number. Raises EOFError if the input has ended, and Refused for a wrong answer in a
    pipe."""
    while True:
        print(f"{what}, a number: ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        try:
            return number(line.strip(), choices)
        except Refused as refusal:
            if not sys.stdin.isatty():
                raise
            print(refusal)


def number(text: str, choices: Sequence[str]) -> int:
    """The number of a choice, from 1 on, that `text` gives. Raises Refused for any other text."""
    if not text.isdecimal() or not 1 <= int(text) <= len(choices):
        raise Refused(f"{text!r} is no answer", f"give a number from 1 to {len(choices)}")
    return int(text)


def numbered(choices: Sequence[str]) -> str:
    """The choices with their numbers, one line each, from 1 on."""
    return "\n".join(f"{place:4}  {choice}" for place, choice in enumerate(choices, start=1))


def seed(text: str) -> int:
    """For argparse: a whole number, 0 or more."""
    if not text.isdecimal():
        raise ValueError(text)
    return int(text)


def parse(words: Sequence[str] | None) -> Namespace:
    """The command line. Raises Refused, in one line."""
    parser = OneLineParser(prog="python -m repro.lab.drill", description=__doc__)
    parser.add_argument("--seed", type=seed, default=random.randrange(SEEDS), help="which case (default: a random one)")
    parser.add_argument("--case", nargs="+", default=[], metavar="NAME", help="deal one of these cases only")
    parser.add_argument("--answer", nargs=2, metavar=("CAUSE", "FIRST"), help="two numbers; else they are asked for")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
