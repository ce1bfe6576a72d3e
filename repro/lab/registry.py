"""How the user reaches a package registry. Only this part of the user's configuration is passed on to pip and uv.

A setting such as `PIP_USER`, `require-hashes` or a constraint would break the set-up or change what it installs. But
without the addresses, certificates and proxies that the user has configured, a registry may not be reached at all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from repro.lab import configured

REACHING = ("timeout", "default-timeout", "retries", "cache-dir", "keyring-provider", "no-index")  # pip's names
KEPT_OF_UV = ("UV_CACHE_DIR", "UV_HTTP_TIMEOUT", "UV_NATIVE_TLS", "UV_SYSTEM_CERTS", "UV_KEYRING_PROVIDER")
CREDENTIALS = ("_USERNAME", "_PASSWORD")  # of UV_INDEX_NAME_...
PATIENCE = "300"  # seconds that uv waits for a slow line, if the user has not said how long
CLEANED = ("PIP_", "UV_", "PYTHON")


@dataclass(frozen=True)
class Registry:
    """Where packages are looked for (the first index, more indexes, places with files), which hosts are trusted without
    a certificate, and the certificate, the client's certificate and the proxy."""

    index: str = ""
    more: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()
    certificate: str = ""
    own_certificate: str = ""
    proxy: str = ""

    def completed_by(self, other: Registry) -> Registry:
        """This registry, completed: each empty field takes the value of `other`."""
        return replace(self, **{name: value or getattr(other, name) for name, value in vars(self).items()})


def environment() -> dict[str, str]:
    """The environment variables for a child process that is pip or uv: those of this process, without the settings of
    pip, uv and Python. Only the way to a registry is kept. If only one of pip and uv has a way configured, both use
    it."""
    of_pip = configured.for_pip(os.environ)
    pips, uvs = _registry_of_pip(of_pip), _registry_of_uv(os.environ, configured.for_uv(os.environ))
    kept = {name: value for name, value in os.environ.items() if _is_kept(name)}
    kept |= {f"PIP_{name.upper().replace('-', '_')}": of_pip[name] for name in REACHING if name in of_pip}
    kept |= _for_pip(pips.completed_by(uvs))
    kept |= _for_uv(uvs.completed_by(pips))
    return {"UV_HTTP_TIMEOUT": PATIENCE, **kept}


def _registry_of_pip(settings: Mapping[str, str]) -> Registry:
    def words(name: str) -> tuple[str, ...]:
        return tuple(settings.get(name, "").split())

    return Registry(
        index=settings.get("index-url", ""),
        more=words("extra-index-url"),
        links=words("find-links"),
        trusted=words("trusted-host"),
        certificate=settings.get("cert", ""),
        own_certificate=settings.get("client-cert", ""),
        proxy=settings.get("proxy", ""),
    )


def _registry_of_uv(variables: Mapping[str, str], settings: Mapping[str, Any]) -> Registry:
    indexes = settings.get("index", [])
    named = [f"{index['name']}={index['url']}" if "name" in index else index["url"] for index in indexes]
    firsts = [name for name, index in zip(named, indexes, strict=True) if index.get("default")]
    others = [name for name in named if name not in firsts]
    told = variables.get("UV_INDEX", "").split() + variables.get("UV_EXTRA_INDEX_URL", "").split()
    return Registry(
        index=variables.get("UV_DEFAULT_INDEX")
        or variables.get("UV_INDEX_URL")
        or next(iter(firsts), settings.get("index-url", "")),
        more=tuple(told or others + settings.get("extra-index-url", [])),
        links=tuple(variables.get("UV_FIND_LINKS", "").split(",") if variables.get("UV_FIND_LINKS") else ())
        or tuple(settings.get("find-links", ())),
        trusted=tuple(variables.get("UV_INSECURE_HOST", "").split() or settings.get("allow-insecure-host", ())),
    )


def _for_pip(registry: Registry) -> dict[str, str]:
    """The variables for pip. With them, pip reads none of its configuration files."""
    told = {
        "PIP_INDEX_URL": _address(registry.index),
        "PIP_EXTRA_INDEX_URL": " ".join(map(_address, registry.more)),
        "PIP_FIND_LINKS": " ".join(registry.links),
        "PIP_TRUSTED_HOST": " ".join(registry.trusted),
        "PIP_CERT": registry.certificate,
        "PIP_CLIENT_CERT": registry.own_certificate,
        "PIP_PROXY": registry.proxy,
    }
    return {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        **{name: value for name, value in told.items() if value},
    }


def _for_uv(registry: Registry) -> dict[str, str]:
    """The variables for uv. With them, uv reads none of its configuration files. Like pip, uv takes the best match of
    all indexes. This is safe: the locks know every file by its hash, so a different file with the same name is
    refused."""
    told = {
        "UV_DEFAULT_INDEX": registry.index,
        "UV_INDEX": " ".join(registry.more),
        "UV_FIND_LINKS": ",".join(filter(_is_there, registry.links)),  # uv fails where a folder is missing
        "UV_INSECURE_HOST": " ".join(registry.trusted),
        "SSL_CERT_FILE": os.environ.get("SSL_CERT_FILE") or registry.certificate,
        "SSL_CLIENT_CERT": os.environ.get("SSL_CLIENT_CERT") or registry.own_certificate,
        "ALL_PROXY": os.environ.get("ALL_PROXY") or registry.proxy,
    }
    return {
        "UV_NO_CONFIG": "1",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        **{name: value for name, value in told.items() if value},
    }


def _is_kept(name: str) -> bool:
    if name in KEPT_OF_UV or (name.startswith("UV_INDEX_") and name.endswith(CREDENTIALS)):
        return True
    return not name.startswith(CLEANED) and name not in ("VIRTUAL_ENV", "CONDA_PREFIX")


def _address(index: str) -> str:
    """The address of an index. uv also allows a name in front of it: `name=address`."""
    name, separator, address = index.partition("=")
    return address if separator and name.replace("-", "").replace("_", "").replace(".", "").isalnum() else index


def _is_there(place: str) -> bool:
    """False if the place is a folder of this machine that does not exist any more."""
    path = place.removeprefix("file://")
    return "://" in path or not path.startswith(os.sep) or os.path.exists(path)
