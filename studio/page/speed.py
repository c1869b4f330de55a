"""The form's settings for speed: attention's kernel, feature cache, compiling. Knows no job and no event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import gradio as gr

from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Attention, FeatureCache, GenerationRequest
from studio.page.text import label

FIELDS = ("attention", "cache", "compiled")
USUAL: Mapping[str, Any] = {"attention": "auto", "cache": "off", "compiled": False}


def make_speed(spec: EngineSpec, form: dict[str, Any]) -> None:
    """The components, as `spec` takes them; fills `form`."""
    with gr.Row():
        form["attention"] = gr.Dropdown(
            [(label(f"attention_{name}"), name) for name in get_args(Attention)],
            value=USUAL["attention"],
            label=label("attention"),
            info=label("attention_info"),
            filterable=False,
            min_width=150,
            visible=spec.takes.attention,
            elem_id="attention",
        )
        form["cache"] = gr.Dropdown(
            _caches(spec),
            value=USUAL["cache"],
            label=label("cache"),
            info=label("cache_info"),
            filterable=False,
            min_width=150,
            visible=bool(spec.takes.caches),
            elem_id="cache",
        )
    form["compiled"] = gr.Checkbox(
        USUAL["compiled"],
        label=label("compiled"),
        info=label("compiled_info"),
        container=False,
        visible=spec.takes.compiled,
        elem_id="compiled",
    )


def speed_updates(spec: EngineSpec) -> dict[str, Any]:
    """What choosing an engine does to them: which are there, and that none is chosen."""
    return {
        "attention": gr.update(visible=spec.takes.attention, value=USUAL["attention"]),
        "cache": gr.update(visible=bool(spec.takes.caches), choices=_caches(spec), value=USUAL["cache"]),
        "compiled": gr.update(visible=spec.takes.compiled, value=USUAL["compiled"]),
    }


def speed_values(request: GenerationRequest) -> dict[str, Any]:
    """What they show for a request of before."""
    return {name: getattr(request, name) for name in FIELDS}


def read_speed(spec: EngineSpec, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Choice` that they hold; what `spec` does not take counts as not chosen."""
    taken = {"attention": spec.takes.attention, "cache": bool(spec.takes.caches), "compiled": spec.takes.compiled}
    return {name: values.get(name) or USUAL[name] if is_taken else USUAL[name] for name, is_taken in taken.items()}


def is_speed(values: Mapping[str, Any]) -> bool:
    """Whether these, as a browser kept them, are settings that there are. None of them were there before."""
    return (
        values.get("attention") in (None, *get_args(Attention))
        and values.get("cache") in (None, *get_args(FeatureCache))
        and isinstance(values.get("compiled"), bool | None)
    )


def _caches(spec: EngineSpec) -> list[tuple[Any, str]]:
    return [(label(f"cache_{name}"), name) for name in ("off", *spec.takes.caches)]
