"""Whether what is to make a run faster goes together, and with this engine. Knows no card and reads no file."""

from __future__ import annotations

from collections.abc import Iterator

from i2v_pipeline.guidance import NO_GUIDANCE, strength_at
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Attention, GenerationRequest, Text

LEAST_CACHED_STEPS = 10
"""With fewer, steps differ too much from each other for anything to be taken over; distilled models take 4."""
_OWN: tuple[Attention, ...] = ("auto", "sdpa")


def speed_mistakes(spec: EngineSpec, request: GenerationRequest) -> Iterator[Text]:
    """Each with its reason."""
    yield from _attention_mistakes(spec, request)
    yield from _cache_mistakes(spec, request)
    if request.compiled and not spec.takes.compiled:
        yield Text(
            f"Compiling: the denoiser of {spec.id} has no equal blocks of which one could be compiled for all. Leave "
            "it out.",
            f"编译：{spec.id} 的去噪模型没有可共用编译结果的相同模块。请去掉此项。",
        )


def _attention_mistakes(spec: EngineSpec, request: GenerationRequest) -> Iterator[Text]:
    kernel = request.attention
    if kernel in _OWN:
        return
    if not spec.takes.attention:
        yield Text(
            f"Attention {kernel}: {spec.id} computes it with PyTorch's own kernel alone, which its layers call by "
            "name. Choose auto.",
            f"注意力内核 {kernel}：{spec.id} 的各层直接调用 PyTorch 自带的内核，无法更换。请选择 auto。",
        )
    if request.device == "cpu" or request.precision == "fp32":
        yield Text(
            f"Attention {kernel}: it computes on an NVIDIA card in half precision alone. Choose auto, or another "
            "device and precision.",
            f"注意力内核 {kernel}：只能在 NVIDIA 显卡上以半精度计算。请选择 auto，或更换设备与精度。",
        )


def _cache_mistakes(spec: EngineSpec, request: GenerationRequest) -> Iterator[Text]:
    kind, steps = request.cache, request.steps or 0
    if kind == "off":
        return
    if kind not in spec.takes.caches:
        yield _no_such_cache(spec, kind)
        return
    if steps < LEAST_CACHED_STEPS:
        yield Text(
            f"Cache {kind} with {steps} steps: so few differ too much from each other to take anything over. Choose "
            f"off, or {LEAST_CACHED_STEPS} steps or more.",
            f"缓存 {kind} 配合 {steps} 步：步数太少，各步差别过大，无法复用。"
            f"请选择 off，或至少 {LEAST_CACHED_STEPS} 步。",
        )
    if request.compiled:
        yield Text(
            f"Cache {kind} and compiling: a cache decides in each step what is computed, which cannot be compiled as "
            "one. Choose one of the two.",
            f"缓存 {kind} 与编译：缓存在每一步决定计算哪些层，无法整体编译。请二选一。",
        )
    if kind == "mag" and request.guidance is not None:
        is_guided = {strength_at(request.guidance, step, steps, "high") != NO_GUIDANCE for step in range(steps)}
        if len(is_guided) > 1:
            yield Text(
                "Cache mag with guidance in some of the steps alone: it counts the steps of each pass. Choose "
                "first_block, or guidance in all steps.",
                "缓存 mag 配合仅在部分步骤启用的引导：它按每种推理的步数计数。"
                "请选择 first_block，或在所有步骤使用引导。",
            )


def _no_such_cache(spec: EngineSpec, kind: str) -> Text:
    if spec.family == "vace":
        # diffusers remembers what the layers after the first add up to, with what the branch has put between them.
        return Text(
            f"Cache {kind}: {spec.id} has none, since its second branch adds to what the layers make between them, and "
            "a step that leaves layers out would add that twice. Choose off.",
            f"缓存 {kind}：{spec.id} 的第二分支在各层之间叠加内容，跳过层的步骤会把它叠加两次，因此不能使用缓存。"
            "请选择 off。",
        )
    if not spec.takes.caches:
        return Text(
            f"Cache {kind}: {spec.id} has none, since its denoiser is no row of equal layers. Choose off.",
            f"缓存 {kind}：{spec.id} 的去噪模型不是一列相同的层，无法使用缓存。请选择 off。",
        )
    known = ", ".join(spec.takes.caches)
    return Text(
        f"Cache {kind}: it goes by ratios that nobody has measured for {spec.id}. Choose off or {known}.",
        f"缓存 {kind}：它依据的比率尚未针对 {spec.id} 测定。请选择 off 或 {known}。",
    )
