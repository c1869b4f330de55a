"""The components of a checkpoint in memory, each loaded when it is first needed. Knows no model family and no loop."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
import transformers
from torch import Tensor

from i2v_pipeline.engines import memory
from i2v_pipeline.engines.gguf_weights import load_packed
from i2v_pipeline.engines.passes import Passes
from i2v_pipeline.engines.streaming import LayerStream
from i2v_pipeline.errors import InputError
from i2v_pipeline.gguf_files import NO_FP8, config_of, packed_weights, read_gguf
from i2v_pipeline.hub import Checkpoint, gguf_of
from i2v_pipeline.planning.modes import Mode
from i2v_pipeline.specs import PackedWeights
from i2v_pipeline.types import Device, Precision

DTYPES: Mapping[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
FP8 = torch.float8_e4m3fn
HALF = torch.bfloat16
HOST = torch.device("cpu")
DENOISERS = ("transformer", "transformer_2", "unet")


def choose_device(wanted: Device | str) -> torch.device:
    """CUDA where there is one, else the CPU. Raises `InputError` for CUDA on a machine without it."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda: PyTorch sees no CUDA device here. Choose cpu or auto, or install a CUDA build of PyTorch.",
            "--device cuda：PyTorch 未检测到 CUDA 设备。请选择 cpu 或 auto，或安装 CUDA 版 PyTorch。",
        )
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def choose_precision(wanted: Precision | str, on_cuda: Precision, device: torch.device) -> Precision:
    """What is computed in: `wanted`, or for `auto` the model's own on CUDA and fp32 on the CPU, where half is slower.

    Weights in fp8 are widened to the model's own, on either device.
    """
    for name in DTYPES:
        if wanted == name:
            return name
    return on_cuda if device.type == "cuda" or wanted == "fp8" else "fp32"


class _Form(NamedTuple):
    """How a component is kept. It does not change while it is loaded: what was narrowed has lost what it was."""

    streamed: bool
    fp8: bool
    halved: bool


class Parts:
    """The components of one checkpoint, on one device or waiting for it in the host's memory.

    `kinds` maps the names of components with weights to their classes, so that a checkpoint cannot name others. `mode`
    says which of them lie on the device together and in which form; `use` changes it between two runs. `precision` is
    what was asked for. `loaded` lists what was loaded since the list was last cleared; `loading` is what is being
    loaded, or was when the load failed. `passes` is how a denoiser is run.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        kinds: Mapping[str, Any],
        dtypes: Mapping[str, torch.dtype],
        device: torch.device,
        precision: Precision | str,
        mode: Mode,
    ) -> None:
        # The studio shows its own progress; the libraries' bars would tear it.
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        self.checkpoint = checkpoint
        self.device = device
        self.dtypes = dtypes
        self.mode = mode
        self.loaded: list[str] = []
        self.passes = Passes()
        self.loading: str | None = None
        self._kinds = kinds
        self._precision = precision
        self._modules: dict[str, Any] = {}
        self._forms: dict[str, _Form] = {}
        self._streams: dict[str, LayerStream] = {}
        self._on_device: set[str] = set()

    @property
    def on_device(self) -> frozenset[str]:
        """The names of the components that the device holds now."""
        return frozenset(self._on_device)

    def get(self, name: str, on_load: Callable[[str], None], *, adapt: Callable[[Any], None] | None = None) -> Any:  # noqa: ANN401 - the class depends on the name
        """The component on the device, loaded if it is not here; `on_load` is called before a load, `adapt` after it.

        Where one part at a time is on the device, all others go to the host's memory first.
        """
        if self.mode.placement in ("swapped", "streamed"):
            self._to_host(*(self._on_device - {name}))
        if name not in self._modules:
            on_load(name)
            self.loading = name
            self._load(name, adapt)
            self.loading = None
            self.loaded.append(name)
        elif name not in self._on_device:
            self._to_device(name)
        self._on_device.add(name)
        return self._modules[name]

    def use(self, mode: Mode) -> None:
        """The next run is carried out in `mode`; what is kept in another form than it wants is given back."""
        self.mode, self.loading = mode, None
        self.release(*(name for name, form in self._forms.items() if form != self._form(name)))

    @property
    def has_fp8(self) -> bool:
        """Whether the denoiser's weights are kept in fp8, as the request or the mode wants it."""
        return self.mode.fp8 or self._precision == "fp8"

    @property
    def decodes_in_half(self) -> bool:
        return self._form("vae").halved

    def computes(self, name: str) -> tuple[str, bool]:
        """What the latents depend on: the type that the component computes in, and whether it is kept in fp8."""
        return _name_of(self.dtypes[name]), self._form(name).fp8

    def stored(self, name: str) -> str:
        """The type of the component's weights, and of what computes where that is another."""
        form, computes = self._form(name), _name_of(self.dtypes[name])
        packed = gguf_of(self.checkpoint.folder, name)
        if packed is not None:
            return f"{packed_weights(packed).in_words()} ({packed.name}), computes in {computes}"
        if form.halved:
            return f"{computes}, decoder {_name_of(HALF)}"
        return f"{_name_of(FP8)}, computes in {computes}" if form.fp8 else computes

    def look(self, name: str) -> Any:  # noqa: ANN401
        """A component that was loaded, for its settings alone, wherever it lies."""
        return self._modules[name]

    def config(self, name: str) -> Mapping[str, Any]:
        """A component's settings as its folder has them, or its GGUF file where that stands alone. Loads nothing."""
        settings, packed = self.checkpoint.folder / name / "config.json", gguf_of(self.checkpoint.folder, name)
        if packed is not None and not settings.is_file():
            return config_of(read_gguf(packed))
        return json.loads(settings.read_text(encoding="utf-8"))

    def packed(self) -> list[PackedWeights]:
        """The weights that are in GGUF; those of two experts once where they are alike."""
        files = (gguf_of(self.checkpoint.folder, name) for name in self._kinds)
        kept: list[PackedWeights] = []
        for weights in (packed_weights(file) for file in files if file is not None):
            if weights not in kept:
                kept.append(weights)
        return kept

    def loaded_of(self, *names: str) -> dict[str, Any]:
        """Those of these components that are loaded, wherever they lie."""
        return {name: self._modules[name] for name in names if name in self._modules}

    def leave(self, *names: str) -> None:
        """These components have done their work in this run; they go where the mode keeps them for the next one."""
        match self.mode.placement:
            case "staged":
                self.release(*names)
            case "swapped" | "streamed":
                self._to_host(*names)

    def release(self, *names: str) -> None:
        """Gives back the memory of these components; the next `get` loads them again."""
        held = [name for name in names if name in self._modules]
        for name in held:
            if name in self._streams:
                self._streams.pop(name).rest()
            del self._modules[name], self._forms[name]
        self._on_device.difference_update(held)
        if held:
            memory.free(self.device)

    def close(self) -> None:
        self.release(*tuple(self._modules))

    def _to_host(self, *names: str) -> None:
        leaving = self._on_device.intersection(names)
        for name in leaving:
            if name in self._streams:
                self._streams[name].rest()
            else:
                _move(self._modules[name], HOST)
        self._on_device -= leaving
        if leaving:
            memory.free(self.device)

    def _to_device(self, name: str) -> None:
        if name in self._streams:
            self._streams[name].work()
        else:
            _move(self._modules[name], self.device)

    def _form(self, name: str) -> _Form:
        is_vae = name == "vae"
        return _Form(
            streamed=self.mode.placement == "streamed" and not is_vae,
            fp8=self.has_fp8 and name in DENOISERS,
            # Who asks for fp32 gets it.
            halved=is_vae and self.mode.half and self.dtypes[name] == torch.float32 and self._precision != "fp32",
        )

    def _load(self, name: str, adapt: Callable[[Any], None] | None) -> None:
        form = self._form(name)
        module = self._read(name, form)
        # requires_grad stays as it is loaded: PyTorch's matmul chooses its path, and with it the last bit, by it.
        module.eval()
        if not form.streamed and not form.fp8:
            module.to(self.device)
        if adapt is not None:
            adapt(module)
        if form.fp8:
            module.enable_layerwise_casting(storage_dtype=FP8, compute_dtype=self.dtypes[name])
        if form.halved:
            module.decoder.to(HALF)
            module.post_quant_conv.to(HALF)
        if form.streamed:
            self._streams[name] = LayerStream(module, self.device)
            self._streams[name].work()
        else:
            module.to(self.device)
        self._modules[name], self._forms[name] = module, form

    def _read(self, name: str, form: _Form) -> Any:  # noqa: ANN401
        packed = gguf_of(self.checkpoint.folder, name)
        if packed is None:
            return self._kinds[name].from_pretrained(
                self.checkpoint.folder,
                subfolder=name,
                dtype=self.dtypes[name],
                variant=self.checkpoint.variant,
                use_safetensors=True,
                local_files_only=True,
            )
        if form.fp8:
            raise InputError(NO_FP8.en, NO_FP8.zh)
        device = HOST if form.streamed else self.device
        return load_packed(self._kinds[name], self.config(name), packed, self.dtypes[name], device)

    def fingerprint(self, name: str) -> str:
        """A hash of the names, sizes and times of the component's files: changes when the files do."""
        stats = [
            (path.name, path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted((self.checkpoint.folder / name).glob("*"))
        ]
        return hashlib.sha256(repr((str(self.checkpoint.folder.resolve()), name, stats)).encode()).hexdigest()


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _move(module: Any, device: torch.device) -> None:  # noqa: ANN401
    """Also from within a step of the loop, where weights that were moved would become inference tensors for good."""
    with torch.inference_mode(False):
        module.to(device)


def runtime_facts(device: torch.device) -> dict[str, Any]:
    """Where the arithmetic is done: what can change the last bit of a sum."""
    facts: dict[str, Any] = {
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    if device.type == "cuda":
        facts |= {
            "device": torch.cuda.get_device_name(device),
            "driver": _driver_version(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "tf32": torch.backends.cuda.matmul.allow_tf32,
        }
    return facts


def _driver_version() -> str | None:
    """The NVIDIA driver's, asked from its own program: PyTorch does not tell it. None where the program is missing."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.partition("\n")[0].strip() or None


def sha256_of(tensor: Tensor) -> str:
    """A hash of the tensor's values, in its own type and in the order of its dimensions."""
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(values.data).hexdigest()


def load_tokenizer(folder: Path) -> Any:  # noqa: ANN401 - transformers chooses the class
    """The tokenizer of the checkpoint in `folder`."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
