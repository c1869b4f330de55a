"""The finer settings of the form, for those who know their model: guidance over the steps, scheduler, LoRAs, last
picture, what the file carries along. Knows no job and no event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from i2v_pipeline.errors import RequestError
from i2v_pipeline.guidance import guidance_as_text, parse_guidance
from i2v_pipeline.hub import local_loras
from i2v_pipeline.specs import EngineSpec, Preset
from i2v_pipeline.types import GenerationRequest, GuidanceSchedule, LoraRef, Text
from studio.page.text import label
from studio.recipe import lora_as_text, parse_lora

Form = dict[str, Any]
AS_PRESET = ""
"""What a field holds where nothing but the preset's own setting was chosen."""
FIELDS = ("guidance_schedule", "scheduler", "flow_shift", "loras", "last_image", "embed_source")
OF_PRESET = ("guidance_schedule", "scheduler", "flow_shift")
"""What the choice of a preset settles: it is emptied then, or it would hold against the preset unseen."""


def make_fine(spec: EngineSpec, form: Form) -> None:
    """The components, as `spec` takes them; fills `form`."""
    shown = _shown(spec)
    with gr.Row():
        form["guidance_schedule"] = gr.Textbox(
            label=label("guidance_schedule"),
            info=label("guidance_schedule_info"),
            placeholder="9..6",
            max_lines=1,
            min_width=150,
            visible=shown["guidance_schedule"],
            elem_id="guidance-schedule",
        )
        form["scheduler"] = gr.Dropdown(
            _schedulers(spec),
            value=AS_PRESET,
            label=label("scheduler"),
            info=label("scheduler_info"),
            filterable=False,
            min_width=150,
            visible=shown["scheduler"],
            elem_id="scheduler",
        )
        # A gr.Number shows an empty value as 0.
        form["flow_shift"] = gr.Textbox(
            label=label("flow_shift"),
            info=label("flow_shift_info"),
            max_lines=1,
            min_width=150,
            visible=shown["flow_shift"],
            elem_id="flow-shift",
        )
    form["loras"] = gr.Dropdown(
        lora_names(),
        value=[],
        multiselect=True,
        allow_custom_value=True,
        label=label("loras"),
        info=label("loras_info"),
        visible=shown["loras"],
        elem_id="loras",
    )
    form["last_image"] = gr.Image(
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        buttons=[],
        height=180,
        label=label("last_image"),
        visible=shown["last_image"],
        elem_id="last-image",
    )
    form["embed_source"] = gr.Checkbox(True, label=label("embed_source"), container=False, elem_id="embed-source")


def fine_updates(spec: EngineSpec) -> dict[str, Any]:
    """What choosing an engine does to them: which are there; those that belong to the preset are emptied."""
    updates = {name: gr.update(visible=is_shown) for name, is_shown in _shown(spec).items()}
    updates["loras"] |= {"choices": lora_names()}
    updates["scheduler"] |= {"choices": _schedulers(spec)}
    return {name: {**update, **({"value": AS_PRESET} if name in OF_PRESET else {})} for name, update in updates.items()}


def fine_values(request: GenerationRequest, preset: Preset, spec: EngineSpec) -> dict[str, Any]:
    """What they show for a request of before; what the preset sets by itself stays empty."""
    usual = spec.diffusion
    scheduler = preset.scheduler or (usual.schedulers[0] if usual else None)
    shift = preset.flow_shift if preset.flow_shift is not None or usual is None else usual.flow_shift
    guidance = request.guidance
    return {
        "guidance_schedule": guidance_as_text(guidance)
        if isinstance(guidance, tuple | GuidanceSchedule)
        else AS_PRESET,
        "scheduler": AS_PRESET if request.scheduler in (None, scheduler) else request.scheduler,
        "flow_shift": AS_PRESET if request.flow_shift in (None, shift) else f"{request.flow_shift:g}",
        "loras": [lora_as_text(lora) for lora in own_loras(request, preset) if _is_here(lora)],
        "last_image": request.last_image,
        "embed_source": request.embed_source,
    }


def own_loras(request: GenerationRequest, preset: Preset) -> tuple[LoraRef, ...]:
    """The request's LoRAs without those that its preset brings."""
    brought = len(preset.loras)
    return request.loras[brought:] if request.loras[:brought] == preset.loras else request.loras


def lacks_loras(request: GenerationRequest, preset: Preset) -> bool:
    """Whether a LoRA of the request is none that the form can name: the page names files of its own folder alone."""
    is_preset_there = request.loras[: len(preset.loras)] == preset.loras
    return not is_preset_there or bool(foreign_loras(request, preset))


def foreign_loras(request: GenerationRequest, preset: Preset) -> tuple[LoraRef, ...]:
    """Those that neither the preset brings nor the form can name."""
    return tuple(lora for lora in own_loras(request, preset) if not _is_here(lora))


def read_fine(spec: EngineSpec, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Choice` that they hold; what `spec` does not take counts as not chosen.

    Raises `RequestError` for what cannot be read, and for a LoRA that is not in the folder.
    """
    shown = _shown(spec)
    schedule = _text(values, "guidance_schedule") if shown["guidance_schedule"] else ""
    shift = _text(values, "flow_shift") if shown["flow_shift"] else ""
    chosen: dict[str, Any] = {
        "scheduler": (values.get("scheduler") or None) if shown["scheduler"] else None,
        "flow_shift": _number(shift) if shift else None,
        "loras": _loras(values.get("loras") or ()) if shown["loras"] else (),
        "last_image": Path(values["last_image"]) if shown["last_image"] and values.get("last_image") else None,
        "embed_source": values.get("embed_source") is not False,
    }
    return {**chosen, "guidance": parse_guidance(schedule)} if schedule else chosen


def lora_names() -> list[str]:
    """The files of the LoRA folder, by name."""
    return [path.name for path in local_loras()]


def _shown(spec: EngineSpec) -> dict[str, bool]:
    facts = spec.diffusion
    return {
        "guidance_schedule": spec.takes.guidance,
        "scheduler": facts is not None and len(facts.schedulers) > 1,
        "flow_shift": facts is not None and facts.flow_shift is not None,
        "loras": spec.takes.loras,
        "last_image": spec.takes.last_image,
    }


def _schedulers(spec: EngineSpec) -> list[tuple[Any, str]]:
    names = spec.diffusion.schedulers if spec.diffusion else ()
    return [(label("as_preset"), AS_PRESET), *((name, name) for name in names)]


def _loras(texts: Sequence[str]) -> tuple[LoraRef, ...]:
    here = {path.name: path for path in local_loras()}
    refs = []
    for text in texts:
        ref = parse_lora(text)
        if ref.source not in here:
            there = Text(", ".join(here) or "no .safetensors file yet", "、".join(here) or "尚无 .safetensors 文件")
            raise RequestError(
                f"LoRA {ref.source!r}: the LoRA folder (models/loras) holds {there.en}. Choose one of these, or put "
                "the file there.",
                f"LoRA {ref.source!r}：LoRA 文件夹（models/loras）的内容：{there.zh}。请选择其一，或把文件放进去。",
            )
        refs.append(LoraRef(source=str(here[ref.source]), weight=ref.weight, expert=ref.expert))
    return tuple(refs)


def _is_here(lora: LoraRef) -> bool:
    """By its path, or by its name alone, as a report has it."""
    return any(lora.source in (str(path), path.name) for path in local_loras())


def _text(values: Mapping[str, Any], field: str) -> str:
    return str(values.get(field) or "").strip()


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RequestError(
            f"Flow shift {text!r}: a number above 0 is needed. Leave it empty for the preset's own.",
            f"Flow shift {text!r}：应为大于 0 的数。留空则按预设。",
        ) from None
