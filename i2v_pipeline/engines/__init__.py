"""One engine family a module. `load_engine` is the only door; it imports a family when it is asked for."""

from __future__ import annotations

import os

from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Engine


def load_engine(spec: EngineSpec) -> Engine:
    """Makes the engine that `spec` describes, ready to generate.

    The shards of a denoiser are read by up to eight threads. diffusers looks for that once, as it is imported;
    transformers reads the encoders with up to four in any case.
    """
    os.environ.setdefault("HF_ENABLE_PARALLEL_LOADING", "YES")
    if spec.family == "camera":
        from i2v_pipeline.engines.camera import CameraEngine

        return CameraEngine()
    if spec.diffusion is not None:
        from i2v_pipeline.engines.diffusion import DiffusionEngine

        return DiffusionEngine(spec)
    raise AssertionError(f"presets.yaml was checked, yet no engine family is called {spec.family!r}")
