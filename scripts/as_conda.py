"""Try the conda environment where there is no conda: `python3.12 -m scripts.as_conda FOLDER`.

This script makes a clean environment in FOLDER with the Python that runs it. It calls pip there as conda does for the
`pip:` part of environment.yml, and runs the line of README that installs the kit. Then it runs the doctor, the crash
and a copy of every notebook in another folder. Each step prints one line with its seconds. The script needs the
standard library only. It tests neither conda itself nor conda's own packages (python, pip, graphviz).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from repro.lab.machine.surroundings import CONDAS_MARK
from repro.lab.places import ROOT
from repro.lab.terminal import OneLineParser, command

FILE = ROOT / "environment.yml"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
LAST = 40  # lines of a failed step that are shown
EXECUTE = ("-m", "nbconvert", "--log-level", "ERROR", "--to", "notebook", "--execute", "--inplace")


@command
def main() -> int:
    """Return the exit status. 0: every step succeeded. 1: a step failed, and its output was shown."""
    parser = OneLineParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for the environment, some 10 GB; it stays there")
    environment = parser.parse_args().folder.absolute()
    python = environment / "bin" / "python"
    if not (environment / CONDAS_MARK).is_dir():
        install(environment, python)
    with tempfile.TemporaryDirectory() as elsewhere:
        done = [
            step("doctor", python, "-m", "repro.lab.doctor", folder=elsewhere),
            step("repro/crash.py", python, ROOT / "repro" / "crash.py", folder=elsewhere),
            *(step(path.name, python, *EXECUTE, shutil.copy(path, elsewhere), folder=elsewhere) for path in NOTEBOOKS),
        ]
    return int(not all(done))


def install(environment: Path, python: Path) -> None:
    """Make the environment as conda does, then run README's line that installs the kit. Raises SystemExit, status 1, if
    a step fails."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", prefix="condaenv.", suffix=".requirements.txt", dir=ROOT
    ) as listed:
        listed.write("\n".join(pips_part(FILE.read_text(encoding="utf-8"))))
        listed.flush()
        done = (
            step("environment", sys.executable, "-m", "venv", "--clear", environment)
            and step("conda's newest pip", python, "-m", "pip", "install", "-U", "pip")
            and step("pip's part", python, "-m", "pip", "install", "-U", "-r", listed.name, "--exists-action=b")
            and step("the kit", python, "-m", "pip", "install", "--no-deps", "-e", ".")
        )
    if not done:
        sys.exit(1)
    (environment / CONDAS_MARK).mkdir()
    print(subprocess.run(["du", "-sh", environment], capture_output=True, encoding="utf-8").stdout.split()[0])


def pips_part(text: str) -> list[str]:
    """Return the entries below `- pip:` in `text`, an environment file. No YAML parser is needed."""
    _, _, below = text.partition("- pip:\n")
    return [line.strip().removeprefix("- ") for line in below.splitlines() if line.strip()]


def step(name: str, *words: object, folder: Path | str = ROOT) -> bool:
    """Run a command in `folder`, and return whether it succeeded. Prints its name and its seconds, and if it fails, the
    end of its output."""
    started = time.monotonic()
    run = subprocess.run(
        list(map(str, words)),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    print(f"{'FAIL' if run.returncode else 'OK':<4} {name}, {time.monotonic() - started:.0f} s", flush=True)
    if run.returncode:
        print(*run.stdout.splitlines()[-LAST:], sep="\n", flush=True)
    return run.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
