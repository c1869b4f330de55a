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


class ModelRule(BaseModel):
    """What models of one name pattern need; `extra` is sent as it stands."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    pattern: str = "*"
    extra: dict[str, Any] = {}
    sees_pictures: bool = True


class Provider(BaseModel):
    """One LLM service. `temperature` and `response_format` are not sent where they are None."""

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
    response_format: Literal["json_object"] | None
    models: list[ModelRule]

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
    """The name of the service at this address, or `custom`."""
    for name, provider in load_providers().items():
        if provider.base_url and origin_of(provider.base_url) == origin_of(url):
            return name
    return CUSTOM
