"""What each LLM service takes, from providers.yaml. Knows no key and opens no connection."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, RootModel

CUSTOM = "custom"


Form = Literal["json_schema", "json_object"]


class ModelRule(BaseModel):
    """What models of one name pattern need; `extra` is sent as it stands. `forms` replaces the service's own."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    pattern: str = "*"
    extra: dict[str, Any] = {}
    sees_pictures: bool = True
    forms: list[Form] | None = None


class Provider(BaseModel):
    """One LLM service. `temperature` is not sent where it is None.

    `usage_on_request`: tokens of a streamed answer are counted only where `stream_options` ask for it.
    `forms` are the ways in which it can be held to JSON, the strictest first; after the last the prompt alone asks.
    `needs_key` is false for servers of one's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    title: str
    base_url: str | None
    other_region: str | None
    model: str | None
    keys: list[str]
    base_url_keys: list[str]
    token_parameter: Literal["max_tokens", "max_completion_tokens"]
    max_tokens: int
    temperature: float | None
    usage_on_request: bool
    forms: list[Form]
    models: list[ModelRule]
    needs_key: bool = True

    def rule_for(self, model: str) -> ModelRule:
        return next((rule for rule in self.models if fnmatchcase(model.lower(), rule.pattern)), ModelRule())


class _Providers(RootModel[dict[str, Provider]]):
    model_config = ConfigDict(frozen=True)


@cache
def load_providers() -> Mapping[str, Provider]:
    """Reads providers.yaml, once. The order is the order in which keys are looked for."""
    raw = yaml.safe_load((Path(__file__).parent / "providers.yaml").read_text(encoding="utf-8"))
    return _Providers.model_validate(raw).root


def origin_of(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port. A key belongs to one of these. ValueError where the URL has none, or holds a password."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("not an http address")
    default = 443 if parts.scheme == "https" else 80
    return parts.scheme, parts.hostname.lower(), parts.port or default


def provider_at(url: str) -> str:
    """The name of the service at this address, or `custom`. localhost and 127.0.0.1 are one place."""
    for name, provider in load_providers().items():
        if provider.base_url and _place_of(provider.base_url) == _place_of(url):
            return name
    return CUSTOM


def _place_of(url: str) -> tuple[str, str, int | None]:
    scheme, host, port = origin_of(url)
    return scheme, "127.0.0.1" if host in ("localhost", "::1") else host, port
