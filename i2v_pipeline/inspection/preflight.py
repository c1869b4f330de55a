"""What is worth knowing before a run: of the picture, of the prompt, of the settings. Warns, and refuses nothing.

Reads no file, loads no network and knows no page; of the picture's subjects `subjects.py` speaks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

from i2v_pipeline.advice import other_resolution
from i2v_pipeline.camera_moves import name_phases, plan_phases
from i2v_pipeline.guidance import is_ever_guided
from i2v_pipeline.images import enlargement
from i2v_pipeline.inspection.picture import (
    LETTERING_SIDE_PX,
    at_most,
    blockiness,
    brightness,
    colour_spread,
    edge_blur,
    letters_in_lines,
)
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.suggestions import CALM_GUIDANCE, STUTTER_FPS, STUTTER_GUIDANCE, CurrentSettings, suggest
from i2v_pipeline.types import Change, Finding, GenerationRequest, Guidance, Severity, Text, U8Image

SMALL_SIDE_PX = 256
"""Below this the original tool's guide advises against a picture."""
MUCH_ENLARGED = 3.0
MAX_EDGE_BLUR = 2.25
MAX_EDGE_BLUR_PX = 1.0
"""In thousandths of the longer side, but never less than this many pixels: a small picture has no finer edge."""
MIN_BLOCKS = 0.16
"""Photographs as they were published have up to 0.13, saved with quality 8 to 20 from 0.19 on."""
MIN_BRIGHTNESS = 60.0
MIN_COLOUR_SPREAD = 5.0
MIN_LETTERS, MIN_ROW_PARTS = 18, 33
"""Drawn posters have more of either, also saved with quality 60; the tiled roofs of a pagoda have up to 15 letters,
and no picture without text had more than 29 parts in rows."""
MAX_CROPPED_SHARE = 0.25
FAR_FROM_SUGGESTED = 2.0


def picture_findings(pixels: U8Image) -> tuple[Finding, ...]:
    """What `pixels`, the picture as it was opened, shows without a network; its cost: bench/preflight.py."""
    return tuple(_picture_findings(pixels))


def request_findings(
    spec: EngineSpec,
    request: GenerationRequest,
    *,
    source_size: tuple[int, int],
    count_tokens: Callable[[str], int] | None = None,
    compound: bool = False,
) -> tuple[Finding, ...]:
    """What the picture's size, the prompt and the settings mean for this engine; `training_findings` says the rest.

    `source_size` is the picture's width and height; of references their own findings speak. Without `count_tokens`
    nothing is said about the prompt's length.
    `compound`: subject and camera both move.
    """
    return (
        *(() if spec.takes.references else _fit_findings(spec, request, source_size)),
        *_prompt_findings(spec, request, count_tokens),
        *_setting_findings(spec, request, compound),
    )


def without_repeats(findings: Iterable[Finding], later: Iterable[Finding]) -> tuple[Finding, ...]:
    """All of `findings` that `later` does not say too, by code; then `later`, which was there and knows better."""
    later = tuple(later)
    codes = {finding.code for finding in later}
    return (*(finding for finding in findings if finding.code not in codes), *later)


def _picture_findings(pixels: U8Image) -> Iterator[Finding]:
    height, width = pixels.shape[:2]
    if min(width, height) < SMALL_SIDE_PX:
        yield _finding(
            "picture_small",
            f"The picture has {width} × {height} pixels: under {SMALL_SIDE_PX} on a side there is too little detail.",
            f"图片只有 {width} × {height} 像素：边长低于 {SMALL_SIDE_PX} 时细节不足。",
            remedy=Text("Take a larger copy of it.", "请换用更大的原图。"),
        )
    small = at_most(pixels, LETTERING_SIDE_PX)
    if (light := brightness(small)) < MIN_BRIGHTNESS:
        yield _finding(
            "picture_dark",
            f"The picture is dark: hardly anything in it is above {round(light / 2.55)} % of full brightness.",
            f"图片很暗：几乎没有亮度超过 {round(light / 2.55)}% 的部分。",
            remedy=Text("Brighten it first.", "请先调亮图片。"),
        )
    if colour_spread(small) < MIN_COLOUR_SPREAD:
        yield _finding(
            "picture_one_colour",
            "The picture is almost one colour: there is hardly anything in it that could move.",
            "图片几乎是单一颜色：没有可以运动的内容。",
            remedy=Text("Choose a picture with a clear subject.", "请换一张有明确主体的图片。"),
        )
        return
    letters, parts = letters_in_lines(small)
    if letters >= MIN_LETTERS or parts >= MIN_ROW_PARTS:
        yield _finding(
            "text_poster",
            "There are lines of text in the picture; text melts as soon as it moves.",
            "图片中有成行的文字；文字一旦运动就会变形。",
            remedy=Text(
                "Choose a picture without text, or a still camera.", "请换一张没有文字的图片，或使用固定镜头。"
            ),
        )
    yield from _damage_findings(pixels, small)


def _damage_findings(pixels: U8Image, small: U8Image) -> Iterator[Finding]:
    blur = edge_blur(small)
    if blur is not None and blur > max(MAX_EDGE_BLUR, MAX_EDGE_BLUR_PX * 1000 / max(pixels.shape[:2])):
        yield _finding(
            "blurry",
            "The picture is blurred: even its sharpest edges are soft.",
            "图片模糊：最清晰的边缘也不锐利。",
            remedy=Text(
                "Take a sharper one; the video cannot be sharper.", "请换一张更清晰的图片；视频不会比它更清晰。"
            ),
        )
    if blockiness(pixels) > MIN_BLOCKS:
        yield _finding(
            "picture_blocky",
            "The picture shows the blocks of strong JPEG compression, which stand still while things move.",
            "图片有明显的 JPEG 压缩块，画面运动时这些方块会停在原处。",
            remedy=Text(
                "Take the original, not a copy that was sent or saved small.", "请使用原图，不要用转发或压缩过的副本。"
            ),
        )


def _fit_findings(spec: EngineSpec, request: GenerationRequest, source_size: tuple[int, int]) -> Iterator[Finding]:
    across, down = request.width / source_size[0], request.height / source_size[1]
    enlarged = enlargement(request.fit, request.width, request.height, *source_size)
    if min(source_size) >= SMALL_SIDE_PX and enlarged > MUCH_ENLARGED:
        yield _finding(
            "picture_enlarged",
            f"The picture is enlarged {enlarged:.1f} times for this size: the video will look soft.",
            f"为达到该尺寸，图片将放大 {enlarged:.1f} 倍，视频会显得模糊。",
            remedy=Text("Choose a lower resolution, or a larger picture.", "请降低分辨率，或换用更大的图片。"),
            changes=other_resolution(
                spec,
                request,
                lambda width, height: enlargement(request.fit, width, height, *source_size) <= MUCH_ENLARGED,
                source_size,
            ),
        )
    cropped = _cropped(across, down)
    if request.fit == "crop" and cropped > MAX_CROPPED_SHARE:
        yield _finding(
            "crop_loss",
            f"{math.floor(100 * cropped)} % of the picture is cut off at this size.",
            f"该尺寸会裁去画面的 {math.floor(100 * cropped)}%。",
            remedy=Text(
                "Choose a size of the picture's shape, or pad instead of crop.",
                "请选择与图片比例相近的尺寸，或改用填充。",
            ),
            changes=other_resolution(
                spec,
                request,
                lambda width, height: _cropped(width / source_size[0], height / source_size[1]) <= MAX_CROPPED_SHARE,
                source_size,
            )
            or (Change(field="fit", value="pad"),),
        )


def _cropped(across: float, down: float) -> float:
    """The share of a picture that is cut off where its width and height are scaled by these."""
    return 1 - min(across, down) / max(across, down)


def _prompt_findings(
    spec: EngineSpec, request: GenerationRequest, count_tokens: Callable[[str], int] | None
) -> Iterator[Finding]:
    limit = spec.prompt_style.token_limit
    if not request.prompt.strip():
        yield _finding(
            "prompt_empty",
            "The prompt is empty: what moves is left to the engine.",
            "提示词为空：运动内容由引擎自行决定。",
            remedy=Text("Say what moves and how the camera moves.", "请写明什么在动、镜头如何运动。"),
            severity="info",
        )
    elif count_tokens is not None and limit is not None and (tokens := count_tokens(request.prompt)) > limit:
        yield _finding(
            "prompt_cut",
            f"The prompt has {tokens} tokens; {spec.prompt_style.encoder} reads {limit}. The rest is not read.",
            f"提示词有 {tokens} 个词元，{spec.prompt_style.encoder} 只读取前 {limit} 个，其余不会被读取。",
            remedy=Text("Shorten it so that what matters comes first.", "请缩短内容，把重要的部分放在前面。"),
        )
    phases = plan_phases(request.motion.camera)
    if len(phases) > 1:
        order = name_phases(phases)
        in_turn = not spec.takes.moves_subject
        yield _finding(
            "camera_moves_in_sequence" if in_turn else "camera_contradiction",
            f"Some camera moves contradict each other: {order.en}. "
            + ("They follow one another." if in_turn else "The model may do one of them, or none."),
            f"部分镜头运动互相矛盾：{order.zh}。"
            + ("将依次执行。" if in_turn else "模型可能只执行其中之一，或都不执行。"),
            remedy=Text("Keep one of them, or make two videos.", "请只保留其一，或分成两段视频。"),
            severity="info" if in_turn else "warn",
        )


def _setting_findings(spec: EngineSpec, request: GenerationRequest, compound: bool) -> Iterator[Finding]:
    if not spec.takes.guidance or request.guidance is None:
        return
    if request.negative_prompt.strip() and not is_ever_guided(request.guidance):
        yield _finding(
            "negative_unused",
            "At guidance 1 there is no unconditional pass, so the negative prompt has no effect.",
            "引导强度为 1 时不做无条件推理，反向提示词不起作用。",
            severity="info",
        )
    if not isinstance(request.guidance, int | float) or request.guidance == _of_its_preset(spec, request):
        return
    current = CurrentSettings(
        preset=request.preset or "standard", steps=request.steps, guidance=request.guidance, fps=request.fps
    )
    for better in suggest(spec, request.motion, compound=compound, current=current):
        is_number = better.field == "guidance" and isinstance(better.value, int | float)
        if is_number and abs(float(better.value) - request.guidance) > FAR_FROM_SUGGESTED:
            yield _finding(
                "guidance_unsuitable",
                f"Guidance {request.guidance:g} is far from what suits this movement. {better.reason.en}",
                f"引导强度 {request.guidance:g} 与该动作不匹配。{better.reason.zh}",
                remedy=Text(f"Choose {better.value:g}.", f"请选择 {better.value:g}。"),
                changes=(Change(field="guidance", value=better.value),),
            )
            return
    if spec.family == "i2vgen_xl" and request.guidance > STUTTER_GUIDANCE and request.fps <= STUTTER_FPS:
        yield _finding(
            "guidance_stutter",
            f"Guidance {request.guidance:g} at {request.fps} frames per second tends to stutter.",
            f"引导强度 {request.guidance:g} 搭配每秒 {request.fps} 帧容易卡顿。",
            remedy=Text(
                f"Choose guidance {CALM_GUIDANCE:g}, or more frames per second.",
                f"请选择引导强度 {CALM_GUIDANCE:g}，或提高帧率。",
            ),
            changes=(Change(field="guidance", value=CALM_GUIDANCE),),
        )


def _of_its_preset(spec: EngineSpec, request: GenerationRequest) -> Guidance | None:
    """The guidance of the preset that was chosen, but for the standard one, which stands where nobody chose.

    Who takes a named preset as it is knows what it is for.
    """
    if request.preset is None or request.preset == "standard" or request.preset not in spec.presets:
        return None
    return spec.presets[request.preset].guidance


def _finding(
    code: str,
    en: str,
    zh: str,
    *,
    remedy: Text | None = None,
    changes: tuple[Change, ...] = (),
    severity: Severity = "warn",
) -> Finding:
    return Finding(code=code, severity=severity, message=Text(en, zh), remedy=remedy, changes=changes)
