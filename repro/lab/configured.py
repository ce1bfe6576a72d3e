"""What the user and the system have configured for pip and for uv. This module only reads. Its callers choose the
values."""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SYSTEM = Path("/etc")


def for_pip(variables: Mapping[str, str]) -> dict[str, str]:
    """The value of each option of pip, from pip's files and from the environment variables. The files are read here,
    because `pip config list` shows only some of them if the user has configured `user = true`."""
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}}
    for path in _files_of_pip(variables):
        for section, told in _ini(path).items():
            sections.setdefault(section, {}).update(told)
    spoken = {
        name.removeprefix("PIP_").lower().replace("_", "-"): value
        for name, value in variables.items()
        if name.startswith("PIP_")
    }
    return sections["global"] | sections["install"] | spoken


def _files_of_pip(variables: Mapping[str, str]) -> list[Path]:
    """The files that pip would read, the strongest last."""
    named = variables.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return []
    home = Path("~").expanduser()
    files = [Path(folder, "pip", "pip.conf") for folder in _configuration_folders(variables)]
    files.append(SYSTEM / "pip.conf")
    if not os.path.exists(named):
        files += [home / ".pip" / "pip.conf", _own_configuration(variables) / "pip" / "pip.conf"]
    return [*files, Path(sys.prefix, "pip.conf"), *([Path(named)] if named else [])]


def _ini(path: Path) -> dict[str, dict[str, str]]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, ValueError):
        return {}
    return {
        name: {option.replace("_", "-").removeprefix("--"): value for option, value in parser.items(name)}
        for name in parser.sections()
    }


def for_uv(variables: Mapping[str, str]) -> dict[str, Any]:
    """The options in the files `uv.toml` that uv reads outside a project. The user's value wins over the system's."""
    if variables.get("UV_NO_CONFIG"):
        return {}
    settings: dict[str, Any] = {}
    for path in _files_of_uv(variables):
        told = _toml(path)
        settings |= {**told, **told.get("pip", {})}
    return settings


def _files_of_uv(variables: Mapping[str, str]) -> Iterator[Path]:
    """The files that exist, the strongest last."""
    if variables.get("UV_CONFIG_FILE"):
        yield Path(variables["UV_CONFIG_FILE"])
        return
    folders = [SYSTEM, *_configuration_folders(variables), _own_configuration(variables)]
    yield from (path for folder in folders if (path := folder / "uv" / "uv.toml").is_file())


def _configuration_folders(variables: Mapping[str, str]) -> list[Path]:
    """The system's folders for configuration, the strongest last."""
    return [*map(Path, reversed((variables.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")))]


def _own_configuration(variables: Mapping[str, str]) -> Path:
    """The user's folder for configuration."""
    return Path(variables.get("XDG_CONFIG_HOME") or "~/.config").expanduser()


def _toml(path: Path) -> dict[str, Any]:
    try:
        import tomllib
    except ImportError:  # Python 3.10
        try:
            from pip._vendor import tomli as tomllib
        except ImportError:
            return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # uv would refuse this file, but uv is never asked to read it
        return {}
