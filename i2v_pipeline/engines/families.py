"""Which class and which components belong to a family's name; imports only the family that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from i2v_pipeline.specs import EngineSpec


def family_of(spec: EngineSpec) -> tuple[Mapping[str, Any], tuple[str, ...], Any]:
    """Component classes, names kept in fp32, and the class of the spec's family."""
    if spec.family == "wan":
        from i2v_pipeline.engines import wan

        return wan.KINDS, wan.IN_FP32, wan.Wan
    if spec.family == "references":
        from i2v_pipeline.engines import references, wan

        return wan.KINDS, wan.IN_FP32, references.References
    if spec.family == "vace":
        from i2v_pipeline.engines import vace, wan

        return vace.KINDS, wan.IN_FP32, vace.Vace
    from i2v_pipeline.engines import i2vgen_xl

    return i2vgen_xl.KINDS, i2vgen_xl.IN_FP32, i2vgen_xl.I2VGenXL
