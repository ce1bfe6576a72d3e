"""sglang's HTTP app for a tokenizer worker. Importing this module puts the hooks in place: see
`run_workers_with_plugins`."""

from sglang.srt.entrypoints.http_server import app
from sglang.srt.plugins.hook_registry import HookRegistry

from . import register

__all__ = ["app"]

register()
HookRegistry.apply_hooks()
