"""Whether an engine can carry out a request exactly as it stands. Changes nothing and reads no file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import get_args

from i2v_pipeline.aftercare.length import length_of
from i2v_pipeline.errors import RequestError
from i2v_pipeline.gguf_files import NO_FP8
from i2v_pipeline.guidance import guidance_mistakes
from i2v_pipeline.images import legal_frames, legal_sides
from i2v_pipeline.specs import EngineSpec, Grid
from i2v_pipeline.speed_checks import speed_mistakes
from i2v_pipeline.types import Aftercare, CameraTag, Ending, GenerationRequest, Intensity, Speed, Text

MAX_NAME = 80
"""Characters of a subject's name."""
MAX_SEED = 2**32 - 1
"""Every random generator in use takes 32 bits, and JavaScript's numbers, in which the page keeps a seed, are exact
to 53 bits only: a longer seed would come back changed."""


MAX_DOUBLED_FPS = 60
"""What most screens show in a second; of more, players drop some without a word."""
_FEWEST_TO_END: Mapping[Ending, int] = {"plain": 1, "loop": 5, "boomerang": 3}
"""Fewer frames leave nothing beside the dissolve, or nothing to come back to."""


def check_request(spec: EngineSpec, request: GenerationRequest) -> None:
    """Raises `RequestError` with every mistake at once: what was given, what is allowed, the nearest legal values."""
    mistakes = request_mistakes(spec, request)
    if mistakes:
        raise RequestError(" ".join(mistake.en for mistake in mistakes), "".join(mistake.zh for mistake in mistakes))


def request_mistakes(spec: EngineSpec, request: GenerationRequest) -> list[Text]:
    """Every mistake by itself; empty where the engine can carry the request out."""
    return [
        *_size_mistakes(spec.grid, request),
        *_time_mistakes(spec.grid, request),
        *_setting_mistakes(spec, request),
        *_aftercare_mistakes(request),
        *_continuation_mistakes(spec, request),
        *speed_mistakes(spec, request),
        *_picture_mistakes(spec, request),
        *_word_mistakes(spec, request),
        *_text_mistakes(request),
    ]


def _size_mistakes(grid: Grid, request: GenerationRequest) -> Iterator[Text]:
    sides = legal_sides(grid)
    for en, zh, side in (("Width", "宽度", request.width), ("Height", "高度", request.height)):
        if side not in sides:
            nearest = _nearest(sides, side)
            yield Text(
                f"{en} {side}: multiples of {sides.step} from {sides[0]} to {sides[-1]} are allowed. "
                f"Choose {nearest.en}.",
                f"{zh} {side}：允许 {sides[0]} 到 {sides[-1]} 之间 {sides.step} 的倍数。请选择 {nearest.zh}。",
            )
    if request.width * request.height > grid.max_pixels:
        yield Text(
            f"{request.width} × {request.height}: at most {grid.max_pixels} pixels are allowed. "
            "Choose a smaller width or height.",
            f"{request.width} × {request.height}：最多允许 {grid.max_pixels} 像素。请减小宽度或高度。",
        )


def _time_mistakes(grid: Grid, request: GenerationRequest) -> Iterator[Text]:
    counts = legal_frames(grid)
    if request.frames not in counts:
        nearest = _nearest(counts, request.frames)
        pattern = (
            Text("", "") if counts.step == 1 else Text(f"{counts.step} n + 1 ", f" {counts.step} n + 1 形式的帧数")
        )
        yield Text(
            f"{request.frames} frames: {pattern.en}from {counts[0]} to {counts[-1]} are allowed. Choose {nearest.en}.",
            f"{request.frames} 帧：允许 {counts[0]} 到 {counts[-1]} 帧{pattern.zh}。请选择 {nearest.zh}。",
        )
    if not grid.min_fps <= request.fps <= grid.max_fps:
        yield Text(
            f"{request.fps} frames per second: {grid.min_fps} to {grid.max_fps} are allowed. Choose one of these.",
            f"每秒 {request.fps} 帧：允许 {grid.min_fps} 到 {grid.max_fps}。请在此范围内选择。",
        )


def _setting_mistakes(spec: EngineSpec, request: GenerationRequest) -> Iterator[Text]:
    if not 0 <= request.seed <= MAX_SEED:
        yield Text(
            f"Seed {request.seed}: 0 to {MAX_SEED} are allowed. Choose one of these.",
            f"种子 {request.seed}：允许 0 到 {MAX_SEED}。请在此范围内选择。",
        )
    if not spec.takes.steps and request.steps is not None:
        yield _not_taken(spec, Text(f"Steps {request.steps}", f"步数 {request.steps}"))
    if spec.takes.steps and (request.steps is None or request.steps < 1):
        yield Text(
            f"Steps {request.steps}: this engine needs 1 or more. Choose a number of steps.",
            f"步数 {request.steps}：该引擎至少需要 1 步。请选择步数。",
        )
    if not spec.takes.guidance and request.guidance is not None:
        yield _not_taken(spec, Text(f"Guidance {request.guidance}", f"引导强度 {request.guidance}"))
    if spec.takes.guidance and request.guidance is None:
        yield Text(
            "Guidance None: this engine needs a number of 1 or more. Choose one.",
            "引导强度为空：该引擎需要不小于 1 的数值。",
        )
    if spec.takes.guidance and request.guidance is not None:
        experts = 2 if spec.diffusion and spec.diffusion.boundary is not None else 1
        yield from guidance_mistakes(request.guidance, experts=experts)
    if not spec.takes.negative_prompt and request.negative_prompt:
        yield _not_taken(spec, Text("A negative prompt", "负面提示词"))
    if request.loras and not spec.takes.loras:
        yield _not_taken(spec, Text("LoRAs", "LoRA"))
    if request.last_image is not None and not spec.takes.last_image:
        yield _not_taken(spec, Text("A last picture", "结尾图片"))
    yield from _diffusion_mistakes(spec, request)


def _diffusion_mistakes(spec: EngineSpec, request: GenerationRequest) -> Iterator[Text]:
    diffusion = spec.diffusion
    if diffusion is None:
        given = {
            Text("A checkpoint", "模型文件夹"): request.checkpoint is not None,
            Text("A scheduler", "采样器"): request.scheduler is not None,
            Text("A flow shift", "flow shift"): request.flow_shift is not None,
            Text(f"Device {request.device}", f"设备 {request.device}"): request.device == "cuda",
            Text(f"Precision {request.precision}", f"精度 {request.precision}"): request.precision != "auto",
        }
        yield from (_not_taken(spec, what) for what, is_given in given.items() if is_given)
        return
    if request.scheduler not in diffusion.schedulers:
        known = ", ".join(diffusion.schedulers)
        yield Text(
            f"Scheduler {request.scheduler}: {known} are allowed. Choose one of these.",
            f"采样器 {request.scheduler}：允许 {known}。请选择其一。",
        )
    if diffusion.flow_shift is None and request.flow_shift is not None:
        yield _not_taken(spec, Text(f"Flow shift {request.flow_shift:g}", f"flow shift {request.flow_shift:g}"))
    if diffusion.flow_shift is not None and not 0 < (request.flow_shift or 0) < math.inf:
        yield Text(
            f"Flow shift {request.flow_shift}: this engine needs a number above 0. Choose one.",
            f"flow shift {request.flow_shift}：该引擎需要大于 0 的数。请选择一个。",
        )
    if diffusion.packed and request.precision == "fp8":
        yield NO_FP8
    for lora in request.loras:
        if lora.expert is not None and diffusion.boundary is None:
            yield Text(
                f"{lora.source} is meant for the {lora.expert}-noise expert: this engine has one expert. Name none.",
                f"{lora.source} 指定了专家模型 {lora.expert}：该引擎只有一个。请不要指定。",
            )
    if request.last_image is not None and request.frames <= spec.grid.frame_step:
        yield Text(
            f"{request.frames} frames: a last picture needs at least {spec.grid.frame_step + 1}. Choose more.",
            f"{request.frames} 帧：有结尾图片时至少需要 {spec.grid.frame_step + 1} 帧。请增加帧数。",
        )


def _aftercare_mistakes(request: GenerationRequest) -> Iterator[Text]:
    care, written = request.aftercare, length_of(request)
    if care.double_rate and written.fps > MAX_DOUBLED_FPS:
        yield Text(
            f"{request.fps} frames per second, doubled, are {written.fps}: up to {MAX_DOUBLED_FPS} are allowed. Choose "
            f"{MAX_DOUBLED_FPS // 2} or fewer, or do not double them.",
            f"每秒 {request.fps} 帧翻倍后为 {written.fps} 帧：最多允许 {MAX_DOUBLED_FPS}。"
            f"请选择 {MAX_DOUBLED_FPS // 2} 或更低的帧率，或不要翻倍。",
        )
    fewest = max(_FEWEST_TO_END.get(care.ending, 1), 2 if care.double_rate else 1)
    if request.frames < fewest:
        yield Text(
            f"{request.frames} frames: this after-care needs at least {fewest}. Choose more frames, or leave it out.",
            f"{request.frames} 帧：该后期处理至少需要 {fewest} 帧。请增加帧数，或去掉后期处理。",
        )
    if care.ending == "loop" and request.last_image is not None:
        yield Text(
            "A loop dissolves its end into its start, so a last picture would not be seen. Leave one of them out.",
            "循环会让结尾淡入开头，结尾图片将不可见。请二者取一。",
        )


def _continuation_mistakes(spec: EngineSpec, request: GenerationRequest) -> Iterator[Text]:
    if request.continues is None:
        return
    if spec.takes.references:
        yield Text(
            f"A video to go on from: {spec.id} reads pictures of subjects and begins with none of them. Make a new "
            "video, or choose another engine.",
            f"续写视频：{spec.id} 读取的是主体参考图，不以某张图片开头。请生成新视频，或换一个引擎。",
        )
    if request.continues.frame < 0:
        yield Text(
            f"Frame {request.continues.frame}: frames are counted from 0. Choose one of the video's.",
            f"第 {request.continues.frame} 帧：帧号从 0 开始。请选择视频中的一帧。",
        )
    if request.aftercare != Aftercare():
        yield Text(
            "After-care of a video that goes on from another: it is for finished ones. Leave it out.",
            "续写视频不能同时做后期处理。请去掉后期处理。",
        )
    if request.frames == 1:
        yield Text(
            "1 frame: the first frame of the new clip is one that the video has already. Choose more.",
            "1 帧：新片段的首帧原视频里已经有了。请增加帧数。",
        )


def _picture_mistakes(spec: EngineSpec, request: GenerationRequest) -> Iterator[Text]:
    count, most = len(request.images), spec.takes.references
    if not most:
        if count != 1:
            yield Text(
                f"{count} pictures: this engine takes exactly one. Give one.",
                f"{count} 张图片：该引擎只接受一张。请提供一张。",
            )
        if request.subjects:
            yield _not_taken(spec, Text("Subjects of reference pictures", "参考图主体"))
        return
    if not 1 <= count <= most:
        yield Text(
            f"{count} reference pictures: 1 to {most} are allowed. Give one for each subject.",
            f"{count} 张参考图：允许 1 到 {most} 张。请为每个主体提供一张。",
        )
    if len(request.subjects) != count:
        yield Text(
            f"{len(request.subjects)} subjects for {count} reference pictures: one for each is needed. Name as many.",
            f"{count} 张参考图却有 {len(request.subjects)} 个主体：必须一一对应。",
        )
    for place, subject in enumerate(request.subjects, 1):
        if len(subject.name) > MAX_NAME or not all(mark.isprintable() for mark in subject.name):
            yield Text(
                f"The name of reference {place}: up to {MAX_NAME} characters in one line are allowed. Shorten it.",
                f"第 {place} 张参考图的名称：最多 {MAX_NAME} 个字符，且不能换行。请缩短。",
            )


def _word_mistakes(spec: EngineSpec, request: GenerationRequest) -> Iterator[Text]:
    if request.engine != spec.id:
        yield Text(
            f"The request is for the engine {request.engine}: this is {spec.id}. Ask the one that is meant.",
            f"请求指定的引擎是 {request.engine}：这里是 {spec.id}。请使用对应的引擎。",
        )
    motion = request.motion
    words = (
        *((Text("Camera move", "运镜"), tag, get_args(CameraTag)) for tag in motion.camera),
        (Text("Speed", "速度"), motion.speed, get_args(Speed)),
        (Text("Intensity", "运动强度"), motion.intensity, get_args(Intensity)),
        (Text("Fit", "适配方式"), request.fit, spec.takes.fits),
        (Text("Preset", "预设"), request.preset, (None, *spec.presets)),
        (Text("Ending", "结尾方式"), request.aftercare.ending, get_args(Ending)),
    )
    for name, word, allowed in words:
        if word not in allowed:
            known = [each for each in allowed if each is not None]
            yield Text(
                f"{name.en} {word!r}: {', '.join(known)} are allowed. Choose one of these.",
                f"{name.zh} {word!r}：允许 {'、'.join(known)}。请选择其一。",
            )


def _text_mistakes(request: GenerationRequest) -> Iterator[Text]:
    """Half of a pair of UTF-16 units is no character: neither the report nor a tokenizer could hold it."""
    texts = (request.prompt, request.negative_prompt, request.origin.typed, request.origin.refined)
    if any("\ud800" <= mark <= "\udfff" for text in texts for mark in text):
        yield Text(
            "The prompt holds half a character, which no file can store. Type that character anew.",
            "提示词中有不完整的字符，无法保存。请重新输入该字符。",
        )


def _not_taken(spec: EngineSpec, what: Text) -> Text:
    return Text(
        f"{what.en}: the engine {spec.id} has no such setting. Leave it out, or choose another engine.",
        f"{what.zh}：引擎 {spec.id} 没有这项设置。请去掉它，或换一个引擎。",
    )


def _nearest(legal: range, given: int) -> Text:
    """The legal values just below and above, or the one at the end that `given` is beyond."""
    below = [value for value in legal if value < given][-1:]
    above = [value for value in legal if value > given][:1]
    values = [str(value) for value in (*below, *above)]
    return Text(" or ".join(values), " 或 ".join(values))
