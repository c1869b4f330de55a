"""The errors meant for people. Each says, in both languages: what was given, what is allowed, what to do.

    StudioError            the run failed, and this is the sentence that explains it     exit code 1
    ├── InputError         what the person gave cannot be used                           exit code 2
    │   ├── PictureError   the picture cannot be read or is refused
    │   ├── RequestError   a size, a frame count or a setting that the engine does not take
    │   ├── RecipeError    a file that holds no report of ours, or one that cannot be used
    │   └── PresetsError   presets.yaml is wrong; lists every mistake with its path
    ├── ModelError         a model is not here, not whole, or of a kind that is refused
    ├── VideoError         the video could not be written or read back
    ├── OutOfMemory        an engine had too little memory, and has given back what it held
    └── Cancelled          the person stopped the run                                    exit code 130
        └── Paused         the run was stopped to go on later: its state is saved

Any other exception is a fault of ours: it goes to the log whole and to the person as one plain sentence.
"""

from __future__ import annotations

from i2v_pipeline.types import MemoryKind, StageName, Text


class StudioError(Exception):
    """An error with a sentence for the person, in English and Chinese."""

    exit_code = 1

    def __init__(self, en: str, zh: str) -> None:
        super().__init__(en)
        self.text = Text(en=en, zh=zh)


class InputError(StudioError):
    exit_code = 2


class PictureError(InputError):
    pass


class RequestError(InputError):
    pass


class RecipeError(InputError):
    pass


class PresetsError(InputError):
    pass


class ModelError(StudioError):
    pass


class VideoError(StudioError):
    pass


class OutOfMemory(StudioError):  # noqa: N818 - it names what happened, as PyTorch's own does
    """Raised by an engine that had too little of `memory` in `stage`. Another mode may need less."""

    def __init__(self, stage: StageName, memory: MemoryKind) -> None:
        name = Text("graphics memory", "显存") if memory == "vram" else Text("memory", "内存")
        super().__init__(
            f"The {name.en} ran out. Choose a smaller size, fewer frames or a smaller model.",
            f"{name.zh}不足。请选择更小的尺寸、更少的帧数或更小的模型。",
        )
        self.stage: StageName = stage
        self.memory: MemoryKind = memory


class Cancelled(StudioError):  # noqa: N818 - the person's wish is not an error
    exit_code = 130

    def __init__(self) -> None:
        super().__init__("Cancelled.", "已取消。")


class Paused(Cancelled):
    """Raised by a progress callback like `Cancelled`; what can be saved of the run is on the disk when it arrives."""
