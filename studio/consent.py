"""Which LLM services a person lets see their pictures: asked once for each host, kept in one file.

Knows no page, no picture and no LLM.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import secrets
import threading
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

FILE_NAME = "consent.json"

log = logging.getLogger("studio.consent")


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    hosts: dict[str, bool]


class Consents:
    """The answers in the data folder `data`. Threads of one process may share it."""

    def __init__(self, data: Path) -> None:
        self._path = data / FILE_NAME
        self._lock = threading.Lock()

    def consent_for(self, host: str) -> bool | None:
        """Whether pictures may be sent to `host`; None where nobody was asked yet. This machine itself always may."""
        return True if is_loopback(host) else self._read().get(_plain(host))

    def give_consent(self, host: str, allowed: bool) -> None:
        """Keeps the answer, in place of an earlier one. OSError where the folder cannot be written."""
        with self._lock:
            kept = _Kept(hosts={**self._read(), _plain(host): allowed})
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
            try:
                temporary.write_text(json.dumps(kept.model_dump(), indent=2), encoding="utf-8")
                temporary.replace(self._path)
            finally:
                temporary.unlink(missing_ok=True)

    def _read(self) -> dict[str, bool]:
        try:
            return _Kept.model_validate_json(self._path.read_bytes()).hosts
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError):
            # Nobody's picture leaves because a file is broken: the question is asked again.
            log.warning("%s cannot be read; every host is asked for again", self._path, exc_info=True)
            return {}


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine itself."""
    plain = _plain(host)
    if plain == "localhost":
        return True
    try:
        return ipaddress.ip_address(plain).is_loopback
    except ValueError:
        return False


def _plain(host: str) -> str:
    return host.lower().rstrip(".").strip("[]")
