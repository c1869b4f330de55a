"""What makes a run faster, carried out and told: attention's kernel, a feature cache, compiled blocks.

Each is as the request says or is not at all; where the mode cannot have one, a finding says so. Knows no model family.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from i2v_pipeline.engines.attention import choose_attention, fell_back, rounded_attention, use_attention
from i2v_pipeline.engines.loading import DENOISERS, Parts, nothing
from i2v_pipeline.engines.passes import FIRST_BLOCK_THRESHOLD, MAG_THRESHOLD, cache_settings
from i2v_pipeline.errors import InputError
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Finding, GenerationRequest, Text

log = logging.getLogger("studio.levers")

COMPILER = "inductor"
"""PyTorch's own; it needs a C++ compiler on the CPU and Triton on CUDA."""


class Levers:
    """The levers of one engine. `findings` and `facts` are those of the run that `pulled` was last entered for."""

    def __init__(self, spec: EngineSpec, parts: Parts) -> None:
        self._spec = spec
        self._parts = parts
        self.findings: list[Finding] = []
        self.facts: dict[str, Any] = {}

    @contextmanager
    def pulled(self, request: GenerationRequest) -> Iterator[None]:
        """Within it the denoisers run as the request wants, also those that are loaded only then.

        Raises `InputError` for what does not work here. Afterwards no state of a cache is left, whether the run came to
        its end or not.
        """
        self.findings, self.facts = [], {"attention": "torch scaled_dot_product_attention"}
        self._check_compiling(request)
        passes = self._parts.passes
        passes.made = passes.reused = 0

        def equip(name: str, model: Any) -> None:  # noqa: ANN401 - the class depends on the name
            if name in DENOISERS:
                self._pull(request, name, model)

        try:
            for name, model in self._parts.loaded_of(*DENOISERS).items():
                self._pull(request, name, model)
            self._parts.equip = equip
            yield
        finally:
            self._parts.equip = nothing
            for model in self._parts.loaded_of(*DENOISERS).values():
                if getattr(model, "is_cache_enabled", False):
                    model.disable_cache()
        self.facts |= {"passes": passes.made, "cache": None}
        if request.cache != "off":
            threshold = FIRST_BLOCK_THRESHOLD if request.cache == "first_block" else MAG_THRESHOLD
            self.facts["cache"] = {"kind": request.cache, "threshold": threshold, "passes_reused": passes.reused}
            self.findings.append(_reused(passes.reused, passes.made))

    def _pull(self, request: GenerationRequest, name: str, model: Any) -> None:  # noqa: ANN401
        if self._spec.takes.attention:
            self._set_attention(request, name, model)
        if self._spec.takes.compiled:
            self._set_compiled(model, wanted=self.facts["compiled"])
        if request.cache != "off":
            model.enable_cache(cache_settings(self._spec.id, request.cache, request.steps or 0))

    def _set_attention(self, request: GenerationRequest, name: str, model: Any) -> None:  # noqa: ANN401
        device, head_size = self._parts.device, model.config.attention_head_dim
        chosen = choose_attention(request.attention, device, self._parts.dtypes[name], head_size)
        use_attention(model, chosen.kernel, device)
        self.facts |= chosen.facts()
        if chosen.probe is not None and not chosen.probe.works:
            self._say(fell_back(chosen.probe))
        elif chosen.probe is not None and chosen.kernel == "sage":
            self._say(rounded_attention(chosen.probe))

    def _say(self, finding: Finding) -> None:
        """Once, though two experts have the same to say."""
        if finding not in self.findings:
            self.findings.append(finding)

    def _check_compiling(self, request: GenerationRequest) -> None:
        if not self._spec.takes.compiled:
            return
        # Weights that are replaced while a run goes on, or widened in every pass, stand against one whole graph.
        is_possible = self._parts.mode.placement != "streamed" and not self._parts.has_fp8
        self.facts["compiled"] = request.compiled and is_possible
        if request.compiled and not is_possible:
            self.findings.append(_NOT_COMPILED)
        if self.facts["compiled"]:
            check_compiler(self._parts.device)

    def _set_compiled(self, model: Any, *, wanted: bool) -> None:  # noqa: ANN401
        for block in model.blocks:
            if not wanted:
                block._compiled_call_impl = None
            elif block._compiled_call_impl is None:
                block.compile(fullgraph=True, backend=COMPILER)


def check_compiler(device: torch.device) -> None:
    """Compiles one addition. Raises `InputError` with the first line of what PyTorch says where it cannot."""
    try:
        torch.compile(_add, fullgraph=True, backend=COMPILER)(torch.ones(8, device=device))
    except (RuntimeError, OSError, ImportError) as error:
        log.warning("Nothing can be compiled here", exc_info=True)
        first = str(error).strip().partition("\n")[0][:200]
        needs = Text("Triton", "Triton") if device.type == "cuda" else Text("a C++ compiler", "C++ 编译器")
        raise InputError(
            f"Compiling does not work here: {first} It needs {needs.en}. Install it, or leave --compile out.",
            f"此处无法编译：{first} 需要 {needs.zh}。请安装，或去掉 --compile。",
        ) from error


def _add(values: torch.Tensor) -> torch.Tensor:
    return values + 1


def _reused(reused: int, made: int) -> Finding:
    return Finding(
        code="cache_used",
        severity="info",
        message=Text(
            f"In {reused} of {made} passes most layers were left out and their last results taken, as was asked. Fine "
            "motion and detail may be less than without; the frames are not those of a run without a cache.",
            f"按要求，{made} 次推理中有 {reused} 次跳过大部分层、沿用上次结果。"
            "细微运动和细节可能减少；画面与不用缓存时不同。",
        ),
    )


_NOT_COMPILED = Finding(
    code="not_compiled",
    severity="info",
    message=Text(
        "The layers pass through the card one after another or are kept in fp8, so they were not compiled. Compiling "
        "took no time either.",
        "各层逐一流经显卡或以 fp8 存放，因此没有编译，也未花费编译时间。",
    ),
)
CACHE_NOT_RESUMED = Finding(
    code="cache_not_resumed",
    severity="info",
    message=Text(
        "With a feature cache a run that is interrupted begins again: what the cache remembers is not saved, and going "
        "on without it would give other frames.",
        "使用特征缓存时，中断的生成会从头开始：缓存的内容不会保存，缺少它续跑会得到不同的画面。",
    ),
)
