"""The one request that crashes a server, as a command to paste: `python -m repro.lab.server.request`.

Use it only on a server of your own. A server of 0.5.9 to 0.5.12.post1 dies of this request, and all requests that it
serves at that moment fail, too.
"""

from __future__ import annotations

import json
import shlex
import sys

from repro.lab.refused import Refused
from repro.lab.server.plan import image_url, question
from repro.lab.terminal import OneLineParser, count

SERVER = "http://127.0.0.1:30000"  # where sglang listens by default


def main() -> int:
    """Print the command. Returns 0, or 2 for bad usage."""
    parser = OneLineParser(prog="python -m repro.lab.server.request", description="The request that kills a server.")
    parser.add_argument("--n", type=count, default=2, help="how many samples to ask for (default: %(default)s)")
    parser.add_argument("--url", default=SERVER, help="a server of your own (default: %(default)s)")
    try:
        given = parser.parse_args()
    except Refused as refusal:
        print(f"{parser.prog}: {refusal}", file=sys.stderr)
        return 2
    print(curl(given.url, given.n))
    return 0


def curl(url: str, n: int) -> str:
    """A command for a shell, which sends one image of 1 x 1 pixel and one prompt, and asks for n samples."""
    body = json.dumps(question("What is this?", images=[image_url(side=1)], n=n))
    address = shlex.quote(f"{url}/v1/chat/completions")
    return f"curl {address} -H 'Content-Type: application/json' -d {shlex.quote(body)}"


if __name__ == "__main__":
    sys.exit(main())
