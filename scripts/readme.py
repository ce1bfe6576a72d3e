"""Run the commands whose output README.md shows, and write what they print into it.

A block stands between `<!-- output of COMMAND -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from repro.lab.transcript import shown

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- output of (?P<command>[^>]+) -->\n```text\n)(?P<output>.*?)(```\n<!-- end -->)", re.DOTALL)


def blocks(readme: str) -> dict[str, str]:
    """Each command whose output `readme` shows, and the output."""
    return {block["command"]: block["output"] for block in BLOCK.finditer(readme)}


def refreshed(readme: str) -> str:
    """`readme` with every block as the command prints it now."""
    return BLOCK.sub(lambda block: f"{block[1]}{shown(output_of(block['command']))}{block[4]}", readme)


def output_of(command: str) -> str:
    """What `command`, a script or module with its arguments, prints when this Python runs it."""
    words = command.removeprefix("python ").split()
    print(f"running {command} ...", file=sys.stderr)
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Refresh README.md in place."""
    path = ROOT / "README.md"
    path.write_text(refreshed(path.read_text()))


if __name__ == "__main__":
    main()
