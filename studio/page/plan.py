"""What will really be made, said before it is made. Knows the form's values, no component."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from i2v_pipeline.advice import training_findings
from i2v_pipeline.aftercare.length import length_of
from i2v_pipeline.errors import InputError, StudioError
from i2v_pipeline.hub import check_model
from i2v_pipeline.images import describe_fit
from i2v_pipeline.inspection.preflight import request_findings
from i2v_pipeline.planning.learned import Book
from i2v_pipeline.presets import load_presets
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Aftercare, Alternative, Finding, GenerationRequest, Motion, Plan, StageName, Text
from studio.compile_offer import compile_offer
from studio.models import kinds_of
from studio.page.form import Values
from studio.page.refine import Proposal, motion_for
from studio.page.remedies import warning_html
from studio.page.series import Series, count_words, requests_of
from studio.page.services import Services, picture_facts
from studio.page.subjects import findings_on, white_words
from studio.page.text import both, duration, escape
from studio.page.words import motion_words
from studio.plans import learned_in, machine_now, plan_here, takes

NO_PICTURE = Text(
    "Choose a picture and its size and crop stand here, before anything is made.",
    "选择图像后，这里会先说明实际的尺寸和裁剪，再开始生成。",
)

STAGE_WORDS: Mapping[StageName, Text] = {
    "load": Text("load", "加载"),
    "encode": Text("encode", "编码"),
    "denoise": Text("denoise", "去噪"),
    "decode": Text("decode", "解码"),
    "write": Text("write", "写入"),
}
SUITS_BETTER = "guidance_unsuitable"
TOLD_S = 1.0
"""A stage that takes less is not told."""


def plan_html(values: Values, proposal: Proposal | None, services: Services, series: Series) -> str:
    """The card above Generate: size, length, crop, camera, cost; or the sentence that says what is not possible."""
    spec = services.engines[values["engine"]]
    if series.pictures_in_all == 0:
        prompt = values["prompt"] or ""
        motion = motion_for(prompt, proposal, spec, services)
        return _card([f'<p class="quiet">{both(NO_PICTURE)}</p>', _motion(motion) if prompt.strip() else ""])
    try:
        requests = requests_of(values, proposal, series, services)
    except InputError as error:
        return f'<div class="plan problem"><p>{both(error.text)}</p></div>'
    request = requests[0]
    told = warnings_of(spec, requests, is_advised=proposal is not None)
    plans = _plans_of(spec, requests, learned_in(services.store.data))
    offer = _offer_of(requests, plans)
    return _card(
        [
            f'<p class="plan-count">{both(count_words(series))}</p>' if series.videos > 1 else "",
            *dict.fromkeys(f'<p class="plan-numbers">{both(numbers_of(each))}</p>' for each in requests),
            *dict.fromkeys(f'<p class="plan-fit">{both(_fit_of(each))}</p>' for each in requests),
            *dict.fromkeys(_motion(each.motion) for each in requests),
            f'<p class="plan-cost quiet">{both(_takes(plans))}</p>',
            _needs(spec, max(plans, key=lambda plan: (not plan.fits, plan.peak_vram_gib, plan.peak_ram_gib))),
            *(warning_html(finding) for finding in (*told, *offer)),
            _obstacle(spec, request),
        ]
    )


def warnings_of(spec: EngineSpec, requests: Sequence[GenerationRequest], *, is_advised: bool) -> tuple[Finding, ...]:
    """Each warning once; `is_advised`: what suits the movement better is already offered, beside the prompt."""
    found = (finding for request in requests for finding in _findings_of(spec, request))
    told = (each for each in found if each.severity == "warn" and not (is_advised and each.code == SUITS_BETTER))
    return tuple(dict.fromkeys(told))


def offers_of(spec: EngineSpec, requests: Sequence[GenerationRequest], services: Services) -> tuple[Finding, ...]:
    """What would make these videos quicker in all, for somebody to choose."""
    return _offer_of(requests, _plans_of(spec, requests, learned_in(services.store.data)))


def empty_plan() -> str:
    """The card before anything was chosen."""
    return _card([f'<p class="quiet">{both(NO_PICTURE)}</p>'])


def check_can_run(spec: EngineSpec, request: GenerationRequest) -> None:
    """Raises where the engine's model is not here, with its size, the free disk and the command that downloads it."""
    check_model(spec, request.checkpoint)


def numbers_of(request: GenerationRequest) -> Text:
    """`1248 × 704 · 96 frames · 24 fps · 4.0 s`; after-care as `81 frames at 16 fps → 161 frames at 32 fps`."""
    size, written = f"{request.width} × {request.height}", length_of(request)
    if request.aftercare == Aftercare():
        return Text(
            f"{size} · {written.frames} frames · {request.fps} fps · {written.seconds:.1f} s",
            f"{size} · {written.frames} 帧 · {request.fps} 帧/秒 · {written.seconds:.1f} 秒",
        )
    return Text(
        f"{size} · {request.frames} frames at {request.fps} fps → {written.frames} frames at {written.fps} fps · "
        f"{written.seconds:.1f} s",
        f"{size} · {request.frames} 帧（{request.fps} 帧/秒）→ {written.frames} 帧（{written.fps} 帧/秒）· "
        f"{written.seconds:.1f} 秒",
    )


def lacks_html(spec: EngineSpec) -> str:
    """Which settings of the original tool this engine has none of; empty where it has all."""
    missing = [
        text
        for is_there, text in (
            (spec.takes.steps, Text("inference steps", "推理步数")),
            (spec.takes.guidance, Text("guidance scale", "引导系数")),
            (spec.takes.negative_prompt, Text("negative prompt", "负向提示词")),
        )
        if not is_there
    ]
    if not missing:
        return ""
    line = Text(
        f"This engine has no {' and no '.join(text.en for text in missing)}.",
        f"该引擎没有{'、'.join(text.zh for text in missing)}。",
    )
    return f'<p class="quiet">{both(line)}</p>'


def engine_html(spec: EngineSpec) -> str:
    """What the engine does and does not do, and whether its weights here are packed."""
    kinds = kinds_of(spec)
    packed = Text(f" Its weights here are {kinds}.", f"本机的权重为 {kinds}。") if kinds else Text("", "")
    told = Text(f"{spec.description.en}{packed.en}", f"{spec.description.zh}{packed.zh}")
    return f'<p class="quiet">{both(told)}</p>'


def _obstacle(spec: EngineSpec, request: GenerationRequest) -> str:
    """Why a run would fail, in words; empty where it would not."""
    try:
        check_can_run(spec, request)
    except StudioError as error:
        return f'<p class="obstacle">{both(error.text)}</p>'
    return ""


def _findings_of(spec: EngineSpec, request: GenerationRequest) -> Iterator[Finding]:
    facts = picture_facts(request.images[0])
    yield from findings_on(request) if request.subjects else facts.findings
    yield from request_findings(spec, request, source_size=(facts.width, facts.height))
    yield from training_findings(spec, request)


def _card(parts: list[str]) -> str:
    title = both(Text("What will be made", "将要生成"))
    return f'<div class="plan"><h2>{title}</h2>{"".join(parts)}</div>'


def _motion(motion: Motion) -> str:
    words = "".join(f'<span class="chip">{both(word)}</span>' for word in motion_words(motion))
    return f'<p class="chips">{both(Text("Camera:", "镜头："))} {words}</p>'


def _fit_of(request: GenerationRequest) -> Text:
    if request.subjects:
        return white_words(request)
    facts = picture_facts(request.images[0])
    return describe_fit(request.fit, request.width, request.height, facts.width, facts.height)


def _plans_of(spec: EngineSpec, requests: Sequence[GenerationRequest], book: Book) -> list[Plan]:
    """The plan of each request. Within a series only the picture's size tells one cost from another."""
    by_size = {(each.width, each.height): each for each in requests}
    plans = {size: plan_here(spec, each, book=book) for size, each in by_size.items()}
    return [plans[each.width, each.height] for each in requests]


def _offer_of(requests: Sequence[GenerationRequest], plans: Sequence[Plan]) -> tuple[Finding, ...]:
    known = dict(zip(requests, plans, strict=True))
    offer = compile_offer(requests, machine_now(), known.__getitem__)
    return () if offer is None else (offer,)


def _takes(plans: Sequence[Plan]) -> Text:
    """`About 5 s`, for the corner of the card: all of them with one load, and without, where it makes a difference."""
    later = sum(plan.later_seconds for plan in plans)
    seconds = takes(plans[0].seconds - plans[0].later_seconds + later, later)
    return Text(f"About {seconds.en} on this machine", f"在这台机器上约需 {seconds.zh}")


def _needs(spec: EngineSpec, plan: Plan) -> str:
    """Memory, the stages' seconds, and how it will be carried out; for a model only."""
    if spec.diffusion is None:
        return ""
    memory = (
        Text(f"Graphics memory {plan.peak_vram_gib:.1f} GiB · ", f"显存 {plan.peak_vram_gib:.1f} GiB · ")
        if plan.peak_vram_gib
        else Text("", "")
    )
    stages = [(STAGE_WORDS[stage.name], duration(stage.seconds)) for stage in plan.stages if stage.seconds >= TOLD_S]
    parts = Text(
        ", ".join(f"{word.en} {seconds.en}" for word, seconds in stages),
        "，".join(f"{word.zh} {seconds.zh}" for word, seconds in stages),
    )
    line = Text(
        f"{memory.en}RAM {plan.peak_ram_gib:.1f} GiB · {parts.en} · {plan.device}",
        f"{memory.zh}内存 {plan.peak_ram_gib:.1f} GiB · {parts.zh} · {plan.device}",
    )
    why = f'<p class="plan-why quiet">{both(plan.reason)}</p>' if plan.fits else _misfit(plan)
    return f'<p class="plan-needs">{both(line)}</p>{why}'


def _misfit(plan: Plan) -> str:
    """Why it does not fit, and what does: a button for each."""
    buttons = "".join(
        f'<button type="button" data-engine="{escape(each.engine)}" data-size="{each.width}x{each.height}" '
        f'data-frames="{each.frames}">{both(_offer(each))}</button>'
        for each in plan.alternatives
    )
    offer = f'<p class="offers">{both(Text("This fits:", "这样可行："))} {buttons}</p>' if buttons else ""
    return f'<div class="misfit"><p>{both(plan.reason)}</p>{offer}</div>'


def _offer(each: Alternative) -> Text:
    seconds = duration(each.seconds)
    if each.loses == "engine":
        title = load_presets()[each.engine].title
        return Text(f"{title.en} · {seconds.en}", f"{title.zh} · {seconds.zh}")
    size = f"{each.width} × {each.height}"
    return Text(f"{size}, {each.frames} frames · {seconds.en}", f"{size}，{each.frames} 帧 · {seconds.zh}")
