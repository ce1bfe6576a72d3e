"""Run the commands whose output README.md and the pages in docs show, and write what they print into them.

A block stands between `<!-- output of COMMAND -->` and `<!-- end -->`.
"""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path

from repro.lab.refused import Refused
from repro.lab.teaching.transcript import shown
from repro.lab.terminal import command

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- output of (?P<command>[^>]+) -->\n```text\n)(?P<output>.*?)(```\n<!-- end -->)", re.DOTALL)


def blocks(readme: str) -> dict[str, str]:
    """Return each command whose output the page `readme` shows, with this output."""
    return {block["command"]: block["output"] for block in BLOCK.finditer(readme)}


LIMIT = 1200.0  # seconds for a command


def refreshed(readme: str, only: str = "") -> str:
    """Return the page `readme` with new outputs, for each block whose command contains `only`."""

    def now(block: re.Match[str]) -> str:
        return f"{block[1]}{shown(output_of(block['command']))}{block[4]}" if only in block["command"] else block[0]

    return BLOCK.sub(now, readme)


@functools.cache
def output_of(command: str) -> str:
    """Run `command`, a script or module with its arguments, by this Python, and return what it prints. A second call
    returns the first result. Raises CalledProcessError if the command fails."""
    words = command.removeprefix("python ").split()
    print(f"running {command} ...", file=sys.stderr)
    run = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, encoding="utf-8", check=True, timeout=LIMIT
    )
    return run.stdout


def pages() -> list[Path]:
    """Return README.md, its Chinese translation, and the pages in docs."""
    return [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").glob("*.md"))]


@command
def main() -> None:
    """Refresh the pages in place: `python -m scripts.readme [PART OF A COMMAND]`."""
    only = "".join(sys.argv[1:2])
    texts = {page: page.read_text(encoding="utf-8") for page in pages()}
    if not any(only in command for text in texts.values() for command in blocks(text)):
        raise Refused(f"no page shows a command with {only!r} in it", "give a part of a command, or nothing for all")
    for page, text in texts.items():
        page.write_text(refreshed(text, only), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
