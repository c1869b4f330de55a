"""The form: its components by the name of the request's field, and what a person's choices in them mean.

Knows no job and no result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from i2v_pipeline.errors import PictureError, RequestError
from i2v_pipeline.presets import find_engine
from i2v_pipeline.specs import EngineSpec, Preset
from i2v_pipeline.types import Aftercare, Ending, GenerationRequest, PresetName, Text
from studio.page import fine, speed, subjects
from studio.page.services import Services
from studio.page.text import engine_label, label
from studio.recipe import SEED_LIMIT, Choice

Form = dict[str, Any]
"""Components by field: `image`, `prompt`, `engine` and the fields of `Choice`."""

Values = Mapping[str, Any]
"""What the components hold, by field."""

NUMBERS = ("frames", "fps", "steps", "guidance")
STEPS_RANGE = (1, 100)
"""From 1 on, since distilled models take 4."""
GUIDANCE_RANGE = (1.0, 20.0)
"""1 is none at all. Both are shown for engines that take such a setting."""


def make_engine(services: Services, form: Form) -> None:
    """The choice of the engine; fills `form`."""
    engines = list(services.engines.values())
    form["engine"] = gr.Dropdown(
        [(engine_label(spec), spec.id) for spec in engines],
        value=engines[0].id,
        label=label("engine"),
        filterable=False,
        min_width=200,
        elem_id="engine",
    )


def make_preset(spec: EngineSpec, form: Form) -> None:
    """The presets of `spec`; fills `form`."""
    form["preset"] = gr.Radio(
        _preset_choices(spec),
        value="standard",
        label=label("preset"),
        elem_id="preset",
        elem_classes="segmented",
    )


def make_settings(spec: EngineSpec, form: Form) -> None:
    """The advanced settings, as `spec`'s standard preset sets them; fills `form`."""
    grid, preset = spec.grid, spec.presets["standard"]
    with gr.Row():
        form["resolution"] = gr.Dropdown(
            list(spec.resolutions),
            value=preset.resolution,
            label=label("resolution"),
            info=label("resolution_info"),
            allow_custom_value=True,
            min_width=150,
            elem_id="resolution",
        )
        # A gr.Number shows an empty value as 0, and that is a seed.
        form["seed"] = gr.Textbox(
            label=label("seed"),
            info=label("seed_info"),
            placeholder="-1",
            max_lines=1,
            min_width=150,
            elem_id="seed",
        )
    with gr.Row():
        form["frames"] = _slider("frames", grid.min_frames, grid.max_frames, grid.frame_step, preset.frames)
        form["fps"] = _slider("fps", grid.min_fps, grid.max_fps, 1, preset.fps)
    with gr.Row():
        form["steps"] = _slider("steps", *STEPS_RANGE, 1, preset.steps, visible=spec.takes.steps)
        form["guidance"] = _slider("guidance", *GUIDANCE_RANGE, 0.5, preset.guidance, visible=spec.takes.guidance)
    form["fit"] = gr.Radio(
        [(label(f"fit_{name}"), name) for name in ("crop", "pad", "stretch")],
        value="crop",
        label=label("fit"),
        elem_id="fit",
        elem_classes="segmented",
    )
    form["double_rate"] = gr.Checkbox(
        False, label=label("double_rate"), info=label("double_rate_info"), elem_id="double-rate"
    )
    form["ending"] = gr.Radio(
        [(label(f"ending_{name}"), name) for name in get_args(Ending)],
        value="plain",
        label=label("ending"),
        elem_id="ending",
        elem_classes="segmented",
    )
    form["negative_prompt"] = gr.Textbox(
        label=label("negative_prompt"),
        info=label("negative_prompt_info"),
        placeholder=_usual_negative(spec),
        lines=2,
        max_lines=4,
        visible=spec.takes.negative_prompt,
        elem_id="negative-prompt",
    )
    fine.make_fine(spec, form)
    speed.make_speed(spec, form)


def preset_values(spec: EngineSpec, name: PresetName) -> dict[str, Any]:
    """What choosing a preset writes into the form."""
    preset = spec.presets[name]
    plain = dict.fromkeys(fine.OF_PRESET, fine.AS_PRESET)
    return {"resolution": preset.resolution, **{field: getattr(preset, field) for field in NUMBERS}, **plain}


def engine_updates(spec: EngineSpec, name: PresetName) -> dict[str, Any]:
    """What choosing an engine does to the settings: their ranges, whether they are there, the preset's values.

    A preset that this engine has not gives way to `standard`.
    """
    name = name if name in spec.presets else "standard"
    grid, values = spec.grid, preset_values(spec, name)
    return {
        "preset": gr.update(choices=_preset_choices(spec), value=name),
        "resolution": gr.update(choices=list(spec.resolutions), value=values["resolution"]),
        "frames": gr.update(
            minimum=grid.min_frames, maximum=grid.max_frames, step=grid.frame_step, value=values["frames"]
        ),
        "fps": gr.update(minimum=grid.min_fps, maximum=grid.max_fps, value=values["fps"]),
        "steps": gr.update(visible=spec.takes.steps, value=values["steps"]),
        "guidance": gr.update(visible=spec.takes.guidance, value=values["guidance"]),
        "negative_prompt": gr.update(visible=spec.takes.negative_prompt, placeholder=_usual_negative(spec)),
        **fine.fine_updates(spec),
        **subjects.subject_updates(spec),
        **speed.speed_updates(spec),
    }


def request_values(request: GenerationRequest) -> dict[str, Any]:
    """What the form shows for a request of before; the seed too, so that the same video comes out."""
    names = ("prompt", "engine", "resolution", "frames", "fps", "steps", "fit", "negative_prompt")
    values = {name: getattr(request, name) for name in names}
    preset = _preset_of(request)
    guidance = request.guidance if _is_one_guidance(request) else preset.guidance
    finer = fine.fine_values(request, preset, find_engine(request.engine))
    # References are always put on white, so the form's own choice is not theirs.
    fit = "crop" if request.fit == "white" else request.fit
    own = {"fit": fit, "guidance": guidance, "seed": str(request.seed), "preset": request.preset or "standard"}
    return {
        **values,
        **own,
        **asdict(request.aftercare),
        **finer,
        **speed.speed_values(request),
        **subjects.subject_values(request),
    }


def what_the_form_lacks(request: GenerationRequest) -> list[Text]:
    """What of a request of before the form has no field for, in words; a preset's own LoRAs are not among it.

    Raises `InputError` for an engine that is no longer there.
    """
    lacks = []
    if fine.lacks_loras(request, _preset_of(request)):
        lacks.append(Text("LoRAs from outside the LoRA folder", "LoRA 文件夹之外的 LoRA"))
    if request.continues is not None:
        lacks.append(Text("the video that it continues", "所续写的视频"))
    if request.checkpoint is not None:
        lacks.append(Text("its own model folder", "自定义模型文件夹"))
    return lacks


def with_what_the_form_lacks(wanted: GenerationRequest, before: GenerationRequest) -> GenerationRequest:
    """`wanted`, with what the form has no field for as it was `before`; with another engine none of it fits."""
    if wanted.engine != before.engine:
        return wanted
    return replace(
        wanted,
        loras=(*wanted.loras, *fine.foreign_loras(before, _preset_of(before))),
        checkpoint=before.checkpoint,
        device=before.device,
        precision=before.precision,
    )


def read_values(form: Form, data: Mapping[Any, Any]) -> dict[str, Any]:
    """What the components hold, by field, as an event brings it; of the picture the path."""
    values = {field: data[component] for field, component in form.items()}
    pictures = {field: values[field]["path"] if values[field] else None for field in (*subjects.PICTURES, "last_image")}
    return {**values, **pictures}


def read_choice(spec: EngineSpec, values: Values) -> Choice:
    """The choices as the recipe wants them; a setting that `spec` has not is not on the page and counts as not chosen.

    Raises `RequestError` for what is no such number.
    """
    takes = spec.takes
    choice = Choice(
        preset=values["preset"],
        resolution=str(values["resolution"] or "").strip() or None,
        frames=_whole(values["frames"], "Frames", "生成帧数"),
        fps=_whole(values["fps"], "Frame rate", "帧率"),
        steps=_whole(values["steps"], "Inference steps", "推理步数") if takes.steps else None,
        guidance=values["guidance"] if takes.guidance else None,
        negative_prompt=values["negative_prompt"] or None if takes.negative_prompt else "",
        seed=_seed(values["seed"]),
        fit=None if takes.references else values["fit"],
        aftercare=Aftercare(double_rate=values["double_rate"], ending=values["ending"]),
    )
    return replace(
        choice,
        **fine.read_fine(spec, values),
        **speed.read_speed(spec, values),
        **subjects.read_subjects(spec, values),
    )


def read_picture(spec: EngineSpec, values: Values) -> Path:
    """The uploaded picture, or the first reference. Raises `PictureError` where there is none."""
    pictures = subjects.pictures_on(spec, values)
    if not pictures:
        raise PictureError(
            "There is no picture yet. Drop one onto the form, or take one of the examples.",
            "还没有图像。请把图像拖到表单中，或选一张示例图像。",
        )
    return pictures[0]


def _preset_choices(spec: EngineSpec) -> list[tuple[Any, str]]:
    return [(label(f"preset_{name}"), name) for name in spec.presets]


def _is_one_guidance(request: GenerationRequest) -> bool:
    """Whether a slider can hold it; nothing at all counts as one, too."""
    return request.guidance is None or isinstance(request.guidance, int | float)


def _preset_of(request: GenerationRequest) -> Preset:
    presets = find_engine(request.engine).presets
    return presets.get(request.preset or "standard", presets["standard"])


def _usual_negative(spec: EngineSpec) -> str:
    return spec.diffusion.negative_prompt if spec.diffusion else ""


def _slider(
    field: str, low: float, high: float, step: float, value: float | None, *, visible: bool = True
) -> gr.Slider:
    return gr.Slider(
        low, high, value=value, step=step, label=label(field), min_width=150, visible=visible, elem_id=field
    )


def _whole(value: float | None, en: str, zh: str) -> int | None:
    if value is None:
        return None
    if value != int(value):
        raise RequestError(
            f"{en} {value:g}: a whole number is needed. Change it in the advanced settings.",
            f"{zh} {value:g}：必须是整数。请在高级参数中修改。",
        )
    return int(value)


def _seed(typed: str | None) -> int | None:
    text = (typed or "").strip()
    if text in ("", "-1"):
        return None
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) >= SEED_LIMIT:
        raise RequestError(
            f"Seed {text!r}: allowed are whole numbers from 0 to {SEED_LIMIT - 1}. Leave it empty for a new one.",
            f"随机种子 {text!r}：应为 0 到 {SEED_LIMIT - 1} 的整数。留空则每次随机。",
        )
    return int(text)
