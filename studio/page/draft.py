"""The form as the browser keeps it between two visits. What comes back from a browser is checked like any input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from i2v_pipeline.types import Ending
from studio.page import speed
from studio.page.form import Values
from studio.page.refine import Proposal, from_json, to_json
from studio.page.services import Services
from studio.page.subjects import NAMES, PICTURES, SWITCHES
from studio.page.uploads import own_upload

TEXTS = ("prompt", "negative_prompt", "resolution", "seed", "guidance_schedule", "scheduler", "flow_shift", *NAMES)
NUMBERS = ("frames", "fps", "steps", "guidance")
FITS = ("crop", "pad", "stretch")


@dataclass(frozen=True, kw_only=True)
class Draft:
    """The form's values and the refinement that belongs to its prompt."""

    values: Values
    proposal: Proposal | None


def write(values: Values, proposal: Proposal | None) -> dict[str, Any]:
    """The draft as JSON values."""
    return {"values": dict(values), "proposal": to_json(proposal)}


def read(kept: Any, services: Services) -> Draft | None:  # noqa: ANN401 - whatever the browser kept
    """The draft of before, without a picture that is gone; None where there is none or it fits this studio no more."""
    if not isinstance(kept, dict) or not isinstance(kept.get("values"), dict):
        return None
    values = kept["values"]
    if not _is_form(values, services):
        return None
    fields = {name: values.get(name) for name in ("engine", "preset", "fit", *TEXTS, *NUMBERS)}
    pictures = {name: own_upload(values.get(name)) for name in (*PICTURES, "last_image")}
    faster = {name: values.get(name) or usual for name, usual in speed.USUAL.items()}
    more = {**faster, "loras": values.get("loras") or [], "embed_source": values.get("embed_source") is not False}
    switches = {name: values.get(name) is True for name in SWITCHES}
    # A form of an earlier version has no after-care.
    care = {"double_rate": values.get("double_rate", False), "ending": values.get("ending", "plain")}
    return Draft(values={**fields, **pictures, **more, **switches, **care}, proposal=from_json(kept.get("proposal")))


def _is_form(values: Mapping[str, Any], services: Services) -> bool:
    return (
        values.get("engine") in services.engines
        and values.get("preset") in tuple(services.engines[values["engine"]].presets)
        and values.get("fit") in FITS
        and isinstance(values.get("double_rate", False), bool)
        and values.get("ending", "plain") in get_args(Ending)
        and all(isinstance(values.get(name), str | None) for name in TEXTS)
        and all(isinstance(values.get(name), int | float | None) for name in NUMBERS)
        and speed.is_speed(values)
        and isinstance(values.get("loras"), list | None)
        and all(isinstance(lora, str) for lora in values.get("loras") or ())
    )
