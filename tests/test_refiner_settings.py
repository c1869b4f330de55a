"""Which LLM the environment chooses, and that no key leaves its own address. No network."""

from __future__ import annotations

import json

import pytest

from prompt_refiner import RefinerSettings, load_settings
from prompt_refiner.providers import load_providers

KEY = "sk-settings-0123456789"
OTHER = "sk-other-0123456789"


@pytest.mark.parametrize(
    ("env", "provider", "host", "model"),
    [
        ({"MOONSHOT_API_KEY": KEY}, "kimi", "api.moonshot.cn", "kimi-k2.6"),
        ({"KIMI_API_KEY": f" {KEY}\n"}, "kimi", "api.moonshot.cn", "kimi-k2.6"),
        (
            {"MOONSHOT_API_KEY": KEY, "MOONSHOT_BASE_URL": "https://api.moonshot.ai/v1"},
            "kimi-intl",
            "api.moonshot.ai",
            "kimi-k2.6",
        ),
        ({"KIMI_API_KEY": KEY, "I2V_REFINER_PROVIDER": "kimi-intl"}, "kimi-intl", "api.moonshot.ai", "kimi-k2.6"),
        ({"ZAI_API_KEY": KEY}, "glm-intl", "api.z.ai", "glm-4.6v-flash"),
        ({"ZHIPUAI_API_KEY": KEY}, "glm", "open.bigmodel.cn", "glm-4.6v-flash"),
        ({"ZHIPU_API_KEY": KEY, "I2V_REFINER_MODEL": "glm-5.2"}, "glm", "open.bigmodel.cn", "glm-5.2"),
        ({"I2V_REFINER_PROVIDER": "glm", "I2V_REFINER_API_KEY": KEY}, "glm", "open.bigmodel.cn", "glm-4.6v-flash"),
        (
            {"I2V_REFINER_PROVIDER": "glm", "I2V_REFINER_API_KEY": KEY, "ZHIPUAI_API_KEY": OTHER},
            "glm",
            "open.bigmodel.cn",
            "glm-4.6v-flash",
        ),
        (
            {"I2V_REFINER_BASE_URL": "https://API.moonshot.cn:443/v1", "MOONSHOT_API_KEY": KEY},
            "kimi",
            "api.moonshot.cn",
            "kimi-k2.6",
        ),
        (
            {"I2V_REFINER_BASE_URL": "https://llm.example/v1", "I2V_REFINER_MODEL": "m", "I2V_REFINER_API_KEY": KEY},
            "custom",
            "llm.example",
            "m",
        ),
    ],
)
def test_the_environment_chooses_service_model_and_key(
    env: dict[str, str], provider: str, host: str, model: str
) -> None:
    settings = load_settings(env)
    assert (settings.provider, settings.host, settings.model, settings.api_key) == (provider, host, model, KEY)
    assert settings.configured


@pytest.mark.parametrize("variable", sorted({key for each in load_providers().values() for key in each.keys}))
@pytest.mark.parametrize(
    "address",
    ["https://llm.example/v1", "http://api.moonshot.cn:443/v1", "https://api.z.ai:8443/v1", "http://127.0.0.1:1/v1"],
)
def test_a_vendors_key_goes_to_no_other_address(variable: str, address: str) -> None:
    settings = load_settings({variable: KEY, "I2V_REFINER_BASE_URL": address, "I2V_REFINER_MODEL": "m"})
    assert (settings.provider, settings.api_key) == ("custom", None)


def test_a_profile_named_for_another_address_brings_no_vendors_key() -> None:
    settings = load_settings(
        {"MOONSHOT_API_KEY": KEY, "I2V_REFINER_PROVIDER": "kimi", "I2V_REFINER_BASE_URL": "https://gateway.example/v1"}
    )
    assert (settings.provider, settings.host, settings.api_key) == ("kimi", "gateway.example", None)


@pytest.mark.parametrize("env", [{}, {"OPENAI_API_KEY": KEY}, {"MOONSHOT_API_KEY": "  "}])
def test_no_key_of_ours_means_offline(env: dict[str, str]) -> None:
    assert load_settings(env) == RefinerSettings()
    assert load_settings(env).describe() == {
        "provider": None, "model": None, "host": None, "configured": False, "problem": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"I2V_REFINER_PROVIDER": "gpt"}, "kimi-intl"),
        ({"I2V_REFINER_PROVIDER": KEY}, "I2V_REFINER_PROVIDER"),
        ({"I2V_REFINER_PROVIDER": "kimi"}, "MOONSHOT_API_KEY"),
        ({"I2V_REFINER_PROVIDER": "custom"}, "I2V_REFINER_BASE_URL"),
        ({"I2V_REFINER_API_KEY": KEY}, "I2V_REFINER_PROVIDER"),
        ({"I2V_REFINER_BASE_URL": "https://llm.example/v1", "I2V_REFINER_API_KEY": KEY}, "I2V_REFINER_MODEL"),
        ({"I2V_REFINER_BASE_URL": "llm.example", "I2V_REFINER_MODEL": "m"}, "https://"),
        ({"I2V_REFINER_BASE_URL": "file:///etc/passwd", "I2V_REFINER_MODEL": "m"}, "https://"),
        ({"I2V_REFINER_BASE_URL": f"https://me:{KEY}@llm.example/v1", "I2V_REFINER_MODEL": "m"}, "https://"),
        ({"I2V_REFINER_BASE_URL": "https://llm.example:port/v1", "I2V_REFINER_MODEL": "m"}, "https://"),
        ({"MOONSHOT_API_KEY": f"“{KEY}”"}, "copy it again"),
        ({"MOONSHOT_API_KEY": f"Bearer {KEY}"}, "copy it again"),
    ],
)
def test_settings_that_cannot_work_say_which_variable_and_not_the_key(env: dict[str, str], named: str) -> None:
    settings = load_settings(env)
    assert not settings.configured
    assert settings.problem is not None
    assert named in settings.problem.en
    assert KEY not in repr(settings) + json.dumps(settings.describe())


def test_the_key_is_never_shown() -> None:
    settings = load_settings({"MOONSHOT_API_KEY": KEY})
    assert KEY not in repr(settings) + str(settings) + json.dumps(settings.describe())


def test_every_service_can_be_asked() -> None:
    providers = load_providers()
    for name, provider in providers.items():
        assert (provider.base_url is None) == (name == "custom")
        if provider.base_url is not None:
            assert provider.base_url.startswith("https://")
            assert provider.other_region in providers
            assert provider.keys
            assert provider.model
