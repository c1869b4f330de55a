"""One pass through a denoiser, counted, and where a feature cache is on, with its layers' results of before.

A cache knows a pass by its name, so that the guided passes are compared with guided ones. Knows no model family.
"""

from __future__ import annotations

from typing import Any, Literal

from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
from diffusers.hooks.hooks import HookRegistry, StateManager
from diffusers.hooks.mag_cache import MagCacheConfig
from torch import Tensor

from i2v_pipeline.engines.mag_ratios import MAG_RATIOS
from i2v_pipeline.types import FeatureCache

Pass = Literal["guided", "unguided", "both", "bare"]

FIRST_BLOCK_THRESHOLD = 0.05
"""How much the first layer's result may change for the others to be left out: diffusers' own default."""
MAG_THRESHOLD, MAG_LONGEST, MAG_RETENTION = 0.06, 2, 0.2
"""Error that may add up, steps in a row, and the part at the beginning that is always computed: MagCache's README has
0.06 and 2 for Wan; the last is diffusers' default."""


class Passes:
    """Runs denoisers. `made` counts the passes of this run, `reused` those of which most layers were left out."""

    def __init__(self) -> None:
        self.made = 0
        self.reused = 0

    def run(self, model: Any, which: Pass, **inputs: Any) -> Tensor:  # noqa: ANN401 - each family has its own inputs
        """The model's output; which is the first of the tuple that diffusers' models return."""
        self.made += 1
        if not getattr(model, "is_cache_enabled", False):
            return model(**inputs, return_dict=False)[0]
        with model.cache_context(which):
            output = model(**inputs, return_dict=False)[0]
            self.reused += not _was_computed(model)
        return output


def cache_settings(engine_id: str, kind: FeatureCache, steps: int) -> FirstBlockCacheConfig | MagCacheConfig:
    """diffusers' settings of this cache for a run of so many steps."""
    if kind == "first_block":
        return FirstBlockCacheConfig(threshold=FIRST_BLOCK_THRESHOLD)
    return MagCacheConfig(
        threshold=MAG_THRESHOLD,
        max_skip_steps=MAG_LONGEST,
        retention_ratio=MAG_RETENTION,
        num_inference_steps=steps,
        mag_ratios=list(MAG_RATIOS[engine_id]),
    )


def _was_computed(model: Any) -> bool:  # noqa: ANN401
    """What the first layer's hook decided in the pass just made."""
    hooks = HookRegistry.check_if_exists_or_initialize(model.blocks[0]).hooks
    managers = (getattr(hook, "state_manager", None) for hook in hooks.values())
    (state,) = (manager.get_state() for manager in managers if isinstance(manager, StateManager))
    return getattr(state, "should_compute")  # noqa: B009 - each kind of state is a class of its own
