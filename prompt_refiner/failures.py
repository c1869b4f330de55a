"""Why the LLM's answer could not be used, as one plain sentence each with what to do about it.

Knows no exception of any library: `transport` and `answer` name the cause.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from prompt_refiner.providers import load_providers
from prompt_refiner.settings import API_KEY_KEY, BASE_URL_KEY, MODEL_KEY, PROVIDER_KEY, RefinerSettings
from prompt_refiner.types import Mode, Notice

Cause = Literal[
    "not_configured", "package_missing", "timeout", "cancelled", "unreachable", "proxy", "certificate",
    "key_refused", "model_missing",
    "busy", "no_credit", "refused", "request_refused", "too_large", "server_error", "not_an_api", "empty_answer",
    "unusable_answer", "prompt_too_long",
]  # fmt: skip


class LlmFailure(Exception):  # noqa: N818 - an outcome that the offline result answers, not an error that travels
    """The LLM gave nothing usable. `detail` is a short technical word for the log, such as an HTTP status.

    `again_after_s`: after how many seconds the same question may be answered; None where it never will be. `said` is
    what the service wrote, in lower case: for the rules alone, since it may hold anything, even the key.
    """

    def __init__(self, cause: Cause, detail: str = "", *, again_after_s: float | None = None, said: str = "") -> None:
        super().__init__(f"{cause} {detail}".rstrip())
        self.cause: Cause = cause
        self.detail = detail
        self.again_after_s = again_after_s
        self.said = said


class Sentence(NamedTuple):
    """For the person, in English and Chinese."""

    en: str
    zh: str


_SENTENCES: dict[Cause, Sentence] = {
    "package_missing": Sentence(
        "The Python package “openai” is missing. Install it: pip install openai",
        "缺少 Python 包 “openai”。请安装：pip install openai",
    ),
    "timeout": Sentence(
        "{host} did not answer within {seconds:g} seconds. Try again, or choose a faster model with {MODEL_KEY}.",
        "{host} 在 {seconds:g} 秒内没有回应。请重试，或用 {MODEL_KEY} 换一个更快的模型。",
    ),
    "cancelled": Sentence("The LLM was not waited for, as you asked.", "已按要求不再等待大模型。"),
    "unreachable": Sentence(
        "{host} cannot be reached. Check the network, a proxy, and the address in {BASE_URL_KEY}.",
        "无法连接 {host}。请检查网络、代理以及 {BASE_URL_KEY} 中的地址。",
    ),
    "proxy": Sentence(
        "The proxy {proxy} did not let the request to {host} through. Check HTTPS_PROXY and HTTP_PROXY, or name "
        "{host} in NO_PROXY.",
        "代理 {proxy} 没有转发发往 {host} 的请求。请检查 HTTPS_PROXY 和 HTTP_PROXY，或把 {host} 加入 NO_PROXY。",
    ),
    "certificate": Sentence(
        "The certificate of {host} could not be verified. Install the system's package ca-certificates, or name the "
        "certificates of your own network in SSL_CERT_FILE.",
        "无法验证 {host} 的证书。请安装系统软件包 ca-certificates，或用 SSL_CERT_FILE 指定所在网络的证书。",
    ),
    "key_refused": Sentence(
        "{host} refused the key. Check it{other_en}.",
        "{host} 拒绝了密钥。请检查密钥{other_zh}。",
    ),
    "model_missing": Sentence(
        "{host} has no model “{model}”. Set {MODEL_KEY} to one that it offers, and check the address's path.",
        "{host} 没有模型“{model}”。请把 {MODEL_KEY} 设为它提供的模型，并检查地址中的路径。",
    ),
    "busy": Sentence(
        "{host} is busy or allows no more requests just now. Wait a minute and try again.",
        "{host} 正忙或已达到请求上限。请稍等一分钟再试。",
    ),
    "no_credit": Sentence(
        "The account at {host} has no credit left. Top it up, or choose another service.",
        "{host} 的账户余额不足。请充值或换一个服务。",
    ),
    "refused": Sentence(
        "{host} declined to work on this text or picture. Change the prompt, or refine it offline.",
        "{host} 拒绝处理这段文字或图片。请修改提示词，或使用离线规则。",
    ),
    "request_refused": Sentence(
        "{host} did not accept the request for “{model}”. Choose another model with {MODEL_KEY}.",
        "{host} 不接受发给“{model}”的请求。请用 {MODEL_KEY} 换一个模型。",
    ),
    "too_large": Sentence(
        "The request was too large for “{model}”. Shorten the prompt or leave out the picture.",
        "请求超出“{model}”的限制。请缩短提示词或不发送图片。",
    ),
    "server_error": Sentence(
        "{host} reported an error of its own. Try again later.",
        "{host} 自身出错。请稍后再试。",
    ),
    "not_an_api": Sentence(
        "What answered at {host} is not an OpenAI-compatible API. Check {BASE_URL_KEY}; it often ends in /v1.",
        "{host} 返回的内容不是 OpenAI 兼容接口。请检查 {BASE_URL_KEY}，通常以 /v1 结尾。",
    ),
    "empty_answer": Sentence(
        "“{model}” answered with nothing. Try again, or choose another model with {MODEL_KEY}.",
        "“{model}” 没有返回内容。请重试，或用 {MODEL_KEY} 换一个模型。",
    ),
    "unusable_answer": Sentence(
        "The answer of “{model}” could not be used. Try again, or choose another model with {MODEL_KEY}.",
        "“{model}” 的回答无法使用。请重试，或用 {MODEL_KEY} 换一个模型。",
    ),
    "prompt_too_long": Sentence(
        "The prompt is too long for the LLM. Shorten it to 2000 characters.",
        "提示词过长，未发送给大模型。请缩短到 2000 字以内。",
    ),
}

_NOT_CONFIGURED = Notice(
    code="no_llm",
    cause="not_configured",
    en=f"No LLM is set up, so the offline rules refined the prompt. To use one, set {PROVIDER_KEY} and {API_KEY_KEY}.",
    zh=f"未配置大模型，已由离线规则处理。如需使用，请设置 {PROVIDER_KEY} 和 {API_KEY_KEY}。",
)


def sentence_of(failure: LlmFailure, settings: RefinerSettings, *, deadline_s: float) -> Sentence:
    """The failure and what to do about it."""
    sentence = _SENTENCES[failure.cause]
    region = load_providers()[settings.provider].other_region if settings.provider else None
    other = load_providers()[region].base_url if region else None
    facts = {
        "host": settings.host,
        "model": settings.model,
        "seconds": deadline_s,
        "proxy": failure.detail,
        "other_en": f", or use the other region that it may belong to: {other}, {PROVIDER_KEY}={region}"
        if other
        else "",
        "other_zh": f"；密钥不能跨地区使用，它可能属于另一地区：{other}，{PROVIDER_KEY}={region}" if other else "",
        "MODEL_KEY": MODEL_KEY,
        "BASE_URL_KEY": BASE_URL_KEY,
    }
    return Sentence(sentence.en.format(**facts), sentence.zh.format(**facts))


def failure_notice(failure: LlmFailure, settings: RefinerSettings, *, mode: Mode, deadline_s: float) -> Notice:
    """Says why the offline rules refined the prompt. An error where the person asked for the LLM by name."""
    sentence = sentence_of(failure, settings, deadline_s=deadline_s)
    is_wish = failure.cause == "cancelled"
    return Notice(
        code="llm_failed",
        cause=failure.cause,
        severity="info" if is_wish else "error" if mode == "llm" else "warn",
        en=sentence.en + " The offline rules refined the prompt.",
        zh=sentence.zh + "已改用离线规则。",
    )


def not_configured_notice(settings: RefinerSettings, *, mode: Mode) -> Notice:
    """Says that there is no LLM, and what is wrong with the settings if they were begun."""
    known = settings.problem or _NOT_CONFIGURED
    return Notice(
        code="llm_failed" if mode == "llm" else "no_llm",
        cause="not_configured",
        severity="error" if mode == "llm" else known.severity,
        en=known.en if settings.problem is None else known.en + " The offline rules refined the prompt.",
        zh=known.zh if settings.problem is None else known.zh + "已改用离线规则。",
    )
