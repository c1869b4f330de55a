"""What will really be made, said before it is made. Knows the form's values, no component."""

from __future__ import annotations

from collections.abc import Sequence

from i2v_pipeline.advice import training_findings
from i2v_pipeline.errors import InputError, StudioError
from i2v_pipeline.hub import check_model
from i2v_pipeline.images import describe_fit
from i2v_pipeline.planning import plan_run
from i2v_pipeline.types import EngineSpec, GenerationRequest, Motion, Text
from studio.page.form import Values
from studio.page.refine import Proposal, motion_for
from studio.page.series import Series, count_words, requests_of
from studio.page.services import Services, picture_facts
from studio.page.text import both, duration
from studio.page.words import motion_words

NO_PICTURE = Text(
    "Choose a picture and its size and crop stand here, before anything is made.",
    "选择图像后，这里会先说明实际的尺寸和裁剪，再开始生成。",
)


def plan_html(values: Values, proposal: Proposal | None, services: Services, series: Series) -> str:
    """The card above Generate: size, length, crop, camera; or the sentence that says what is not possible."""
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
    told = dict.fromkeys(finding.message for each in requests for finding in training_findings(spec, each))
    return _card(
        [
            f'<p class="plan-count">{both(count_words(series))}</p>' if series.videos > 1 else "",
            *dict.fromkeys(f'<p class="plan-numbers">{both(numbers_of(each))}</p>' for each in requests),
            *dict.fromkeys(f'<p class="plan-fit">{both(_fit_of(each))}</p>' for each in requests),
            *dict.fromkeys(_motion(each.motion) for each in requests),
            f'<p class="plan-cost quiet">{both(_cost_of(spec, requests))}</p>',
            *(f'<p class="warn">{both(message)}</p>' for message in told),
            _obstacle(spec, request),
        ]
    )


def empty_plan() -> str:
    """The card before anything was chosen."""
    return _card([f'<p class="quiet">{both(NO_PICTURE)}</p>'])


def check_can_run(spec: EngineSpec, request: GenerationRequest) -> None:
    """Raises where the engine's model is not here, with its size, the free disk and the command that downloads it."""
    check_model(spec, request.checkpoint)


def numbers_of(request: GenerationRequest) -> Text:
    """`1248 × 704 · 96 frames · 24 fps · 4.0 s`."""
    size = f"{request.width} × {request.height}"
    return Text(
        f"{size} · {request.frames} frames · {request.fps} fps · {request.seconds:.1f} s",
        f"{size} · {request.frames} 帧 · {request.fps} 帧/秒 · {request.seconds:.1f} 秒",
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
    """What the engine does and does not do."""
    return f'<p class="quiet">{both(spec.description)}</p>'


def _obstacle(spec: EngineSpec, request: GenerationRequest) -> str:
    """Why a run would fail, in words; empty where it would not."""
    try:
        check_can_run(spec, request)
    except StudioError as error:
        return f'<p class="obstacle">{both(error.text)}</p>'
    return ""


def _card(parts: list[str]) -> str:
    title = both(Text("What will be made", "将要生成"))
    return f'<div class="plan"><h2>{title}</h2>{"".join(parts)}</div>'


def _motion(motion: Motion) -> str:
    words = "".join(f'<span class="chip">{both(word)}</span>' for word in motion_words(motion))
    return f'<p class="chips">{both(Text("Camera:", "镜头："))} {words}</p>'


def _fit_of(request: GenerationRequest) -> Text:
    facts = picture_facts(request.images[0])
    return describe_fit(request.fit, request.width, request.height, facts.width, facts.height)


def _cost_of(spec: EngineSpec, requests: Sequence[GenerationRequest]) -> Text:
    plans = [plan_run(spec, request) for request in requests]
    seconds = [plan.seconds for plan in plans if plan.seconds is not None]
    if len(seconds) < len(plans):
        need = max(max(plan.peak_vram_gib, plan.peak_ram_gib) for plan in plans)
        return Text(
            f"Needs about {need:.0f} GiB; its time is not known yet.",
            f"约需 {need:.0f} GiB；所需时间未知。",
        )
    took = duration(sum(seconds))
    return Text(f"Takes about {took.en} on this machine.", f"在这台机器上约需 {took.zh}。")
