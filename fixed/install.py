"""The fixes for a server, by name. Each fix is a function that is called in the server's process before the server
starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from fixed import detach
from repro.lab.refused import Refused

HERE = Path(__file__).parent
DROPPINGS = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")


def hotfix() -> None:
    """Install the hotfix into a temporary folder, for this process and its children. sglang itself then finds the
    plugin and loads it. Raises Refused if pip cannot install the hotfix."""
    target = hotfix_in(Path(tempfile.mkdtemp(prefix="hotfix-")))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(target), os.environ.get("PYTHONPATH", "")])
    sys.path.insert(0, str(target))


def hotfix_in(folder: Path) -> Path:
    """Install the distribution of `fixed/hotfix` in a folder below `folder`, by pip, as an operator does. Returns this
    folder, which belongs on PYTHONPATH. Raises Refused if pip cannot install the hotfix."""
    for part in ("hotfix", "designs"):  # pip builds where the source lies, and must leave nothing in the checkout
        shutil.copytree(HERE / part, folder / part, ignore=DROPPINGS)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    target = folder / "installed"
    made = subprocess.run([*pip, "--target", target, folder / "hotfix"], stdin=subprocess.DEVNULL, capture_output=True)
    if made.returncode:
        reason = made.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise Refused(f"pip could not install the hotfix ({' '.join(reason)})", "run `make setup`")
    return target


FIXES = {"detach": detach.apply, "hotfix": hotfix}
