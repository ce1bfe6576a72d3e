#!/usr/bin/env python
"""One client's image and n = 2: everybody is answered, with the fix. `python fixed/server.py --help` tells more."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from a plain checkout, too

from fixed import install
from repro.lab.server.command import main


def scene(arguments) -> list[str]:
    """One client sends one image and asks for n samples, while others stream: all of them have whole answers."""
    from repro.lab import server
    from repro.lab.server.plan import image_url, question

    install.FIXES[arguments.fix]()
    culprit = question(arguments.prompt, images=[image_url(arguments.image)], n=arguments.n)
    return server.serve(
        arguments.model, arguments.device, others=arguments.clients, culprit=culprit, replicas=arguments.replicas
    )


if __name__ == "__main__":
    sys.exit(main(scene, promise="survived", fixes=list(install.FIXES)))
