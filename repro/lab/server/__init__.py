"""Way 1, as people meet it: sglang's own HTTP server in a child, and clients of it in a process of their own.

`serve` is called in a scene, a function that `repro.lab.engine.launcher` runs in a child.
"""

from repro.lab.server.boot import serve

__all__ = ["serve"]
