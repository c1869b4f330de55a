"""Which LLM, if any, refines prompts: from environment variables and a .env file.

A key is only ever paired with the address it belongs to: the general key with the address that was named beside it, a
vendor's key with that vendor's own addresses.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prompt_refiner.providers import CUSTOM, Provider, load_providers, origin_of, provider_at
from prompt_refiner.types import Notice

PROVIDER_KEY = "I2V_REFINER_PROVIDER"
BASE_URL_KEY = "I2V_REFINER_BASE_URL"
MODEL_KEY = "I2V_REFINER_MODEL"
API_KEY_KEY = "I2V_REFINER_API_KEY"


@dataclass(frozen=True, kw_only=True)
class RefinerSettings:
    """A complete choice of LLM, or none. `problem` says why a choice that was made cannot be used."""

    provider: str | None = None
    base_url: str | None = None
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    problem: Notice | None = None

    @property
    def configured(self) -> bool:
        return self.base_url is not None and self.model is not None and self.problem is None

    @property
    def host(self) -> str | None:
        """Where the text would go; never with a user name or password that stood in the address."""
        return None if self.base_url is None else urlsplit(self.base_url).hostname

    def describe(self) -> dict[str, Any]:
        """What `doctor` shows: JSON values, and never the key."""
        return {
            "provider": self.provider,
            "model": self.model,
            "host": self.host,
            "configured": self.configured,
            "problem": None if self.problem is None else {"en": self.problem.en, "zh": self.problem.zh},
        }


def load_settings(env: Mapping[str, str] | None = None) -> RefinerSettings:
    """The settings of this environment. Without `env`: the process's own, over the .env file beside this package."""
    values = {name: value.strip() for name, value in (_environment() if env is None else env).items()}
    values = {name: value for name, value in values.items() if value}
    asked = values.get(PROVIDER_KEY)
    if asked is not None and asked not in load_providers():
        names = ", ".join(load_providers())
        return _refused(
            f"{PROVIDER_KEY} names no known service: it can be {names}.",
            f"{PROVIDER_KEY} 不是已知的服务：可选值为 {names}。",
        )
    base_url = values.get(BASE_URL_KEY)
    if base_url is not None:
        return _at_address(base_url, asked, values)
    if asked == CUSTOM:
        return _refused(
            f"{PROVIDER_KEY}=custom needs an address: set {BASE_URL_KEY}.",
            f"{PROVIDER_KEY}=custom 需要服务地址：请设置 {BASE_URL_KEY}。",
        )
    if asked is not None:
        return _at_preset(asked, values)
    found = _provider_with_key(values)
    if found is not None:
        return _at_preset(found, values)
    if API_KEY_KEY in values:
        return _refused(
            f"{API_KEY_KEY} is set, but not where it belongs: set {PROVIDER_KEY} or {BASE_URL_KEY} too.",
            f"已设置 {API_KEY_KEY}，但不知道它属于哪个服务：请同时设置 {PROVIDER_KEY} 或 {BASE_URL_KEY}。",
        )
    return RefinerSettings()


def _environment() -> Mapping[str, str]:
    from dotenv import dotenv_values

    file = Path(__file__).resolve().parent.parent / ".env"
    written = dotenv_values(file, interpolate=False)
    return {name: value for name, value in {**written, **os.environ}.items() if value is not None}


def _at_address(base_url: str, asked: str | None, values: Mapping[str, str]) -> RefinerSettings:
    try:
        name = provider_at(base_url)
    except ValueError:
        return _refused(
            f"{BASE_URL_KEY} is not an address: it must look like https://host/v1.",
            f"{BASE_URL_KEY} 不是有效地址：应类似 https://host/v1。",
        )
    vendor_key = _first(values, load_providers()[name].keys)
    return _complete(asked or name, base_url, values.get(API_KEY_KEY) or vendor_key, values)


def _at_preset(name: str, values: Mapping[str, str]) -> RefinerSettings:
    provider = load_providers()[name]
    key = values.get(API_KEY_KEY) or _first(values, provider.keys)
    if key is None:
        accepted = ", ".join([API_KEY_KEY, *provider.keys])
        return _refused(
            f"{provider.title} needs a key: set one of {accepted}.",
            f"{provider.title} 需要密钥：请设置以下变量之一：{accepted}。",
        )
    return _complete(name, provider.base_url, key, values)


def _complete(name: str, base_url: str | None, key: str | None, values: Mapping[str, str]) -> RefinerSettings:
    model = values.get(MODEL_KEY) or load_providers()[name].model
    if model is None:
        return _refused(
            f"Which model? Set {MODEL_KEY} to the name that the server at {BASE_URL_KEY} gives it.",
            f"未指定模型：请把 {MODEL_KEY} 设为 {BASE_URL_KEY} 所指服务中的模型名。",
        )
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        return _refused(
            "The key holds characters that no key has: copy it again, without quotes or spaces.",
            "密钥中含有不可能出现的字符：请重新复制，不要带引号或空格。",
        )
    return RefinerSettings(provider=name, base_url=base_url, model=model, api_key=key)


def _provider_with_key(values: Mapping[str, str]) -> str | None:
    """The first service that has a key here; between two regions of one vendor, the one whose address is set."""
    named = [name for name, provider in load_providers().items() if _first(values, provider.keys)]
    return next(
        (name for name in named if _is_named_region(load_providers()[name], values)), named[0] if named else None
    )


def _is_named_region(provider: Provider, values: Mapping[str, str]) -> bool:
    address = _first(values, provider.base_url_keys)
    try:
        return (
            address is not None and provider.base_url is not None and origin_of(address) == origin_of(provider.base_url)
        )
    except ValueError:
        return False


def _first(values: Mapping[str, str], names: list[str]) -> str | None:
    return next((values[name] for name in names if name in values), None)


def _refused(en: str, zh: str) -> RefinerSettings:
    return RefinerSettings(problem=Notice(code="settings_problem", severity="warn", en=en, zh=zh))
