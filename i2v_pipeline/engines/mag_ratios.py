"""How much the denoiser's layers add from one step to the next, as a ratio of magnitudes: what MagCache goes by.

Measured by MagCache's authors in 40 steps of each checkpoint (MagCache4Wan2.1 of Zehong-Ma/MagCache); here the mean of
the guided and the unguided pass, which differ by 0.002 at most. A model whose ratios nobody has measured is not here.
"""

from __future__ import annotations

from collections.abc import Mapping

# fmt: off
MAG_RATIOS: Mapping[str, tuple[float, ...]] = {
    "wan2.1-i2v-14b-480p": (
        1.0000, 0.9889, 0.9758, 0.9831, 0.9821, 0.9888, 0.9876, 0.9896, 0.9905, 0.9938,
        0.9886, 0.9907, 0.9885, 0.9906, 0.9896, 0.9861, 0.9882, 0.9876, 0.9881, 0.9872,
        0.9857, 0.9854, 0.9816, 0.9841, 0.9795, 0.9815, 0.9774, 0.9783, 0.9736, 0.9709,
        0.9706, 0.9659, 0.9612, 0.9568, 0.9496, 0.9398, 0.9322, 0.9189, 0.9095, 0.9262,
    ),
    "wan2.1-i2v-14b-720p": (
        1.0000, 0.9946, 0.9860, 0.9828, 0.9902, 0.9891, 0.9865, 0.9946, 0.9891, 0.9913,
        0.9910, 0.9921, 0.9951, 0.9957, 0.9907, 0.9910, 0.9917, 0.9904, 0.9920, 0.9910,
        0.9860, 0.9884, 0.9885, 0.9886, 0.9872, 0.9850, 0.9826, 0.9839, 0.9794, 0.9754,
        0.9750, 0.9730, 0.9683, 0.9626, 0.9534, 0.9465, 0.9341, 0.9164, 0.8910, 0.8678,
    ),
}
"""By engine, from the first step to the last."""
# fmt: on
