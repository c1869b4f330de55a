"""The components of a checkpoint in memory, each loaded when it is first needed. Knows no model family and no loop."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
import transformers
from safetensors import safe_open

from i2v_pipeline.engines import memory
from i2v_pipeline.engines.gguf_weights import load_packed
from i2v_pipeline.engines.passes import Passes
from i2v_pipeline.engines.streaming import LayerStream
from i2v_pipeline.errors import InputError
from i2v_pipeline.gguf_files import NO_FP8, config_of, packed_weights, read_gguf
from i2v_pipeline.hub import Checkpoint, gguf_of
from i2v_pipeline.planning.modes import Mode
from i2v_pipeline.specs import PackedWeights
from i2v_pipeline.types import Precision

FP8 = torch.float8_e4m3fn
HALF = torch.bfloat16
HOST = torch.device("cpu")
DENOISERS = ("transformer", "transformer_2", "unet")

OnLoad = Callable[[str | None], None]
"""Called with a component's name before it is loaded, and with None once it is there. May raise `Cancelled`."""
Change = Callable[[str, Any], None]
"""Does something to a component, or to a module of one, by its name."""
Adapt = Callable[[str, Any], Change]
"""Changes how a component works whose weights may not be read yet, and says what is done to each module's weights."""


class _Form(NamedTuple):
    """How a component is kept. It does not change while it is loaded: what was narrowed has lost what it was."""

    streamed: bool
    fp8: bool
    halved: bool


class Parts:
    """The components of one checkpoint, on one device or waiting for it in the host's memory or on the disk.

    `kinds` maps the names of components with weights to their classes, so that a checkpoint cannot name others. `mode`
    says which of them lie on the device together and in which form; `use` changes it between two runs. `precision` is
    what was asked for. `loaded` lists what was loaded since the list was last cleared; `loading` is what is being
    loaded, or was when the load failed. `passes` is how a denoiser is run.

    The run that goes on sets what is done at each load: `on_load` is told, `adapt` comes before the weights get the
    form that the mode wants, `equip` comes last.
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
        self.on_load: OnLoad = lambda _: None
        self.adapt: Adapt = lambda *_: nothing
        self.equip: Change = nothing
        self._kinds = kinds
        self._precision = precision
        self._modules: dict[str, Any] = {}
        self._bare: dict[str, Any] = {}
        self._forms: dict[str, _Form] = {}
        self._streams: dict[str, LayerStream] = {}
        self._on_device: set[str] = set()

    @property
    def on_device(self) -> frozenset[str]:
        """The names of the components that the device holds now."""
        return frozenset(self._on_device)

    def get(self, name: str) -> Any:  # noqa: ANN401 - the class depends on the name
        """The component on the device, loaded if it is not here.

        Where one part at a time is on the device, all others go first to where they wait.
        """
        if self.mode.placement in ("swapped", "streamed"):
            self._send_away(*(self._on_device - {name}))
        if name not in self._modules:
            self.on_load(name)
            self.loading = name
            # Also from within a step of the loop, where weights would be inference tensors for good.
            with torch.inference_mode(False):
                self._load(name)
                self.equip(name, self._modules[name])
            self.loading = None
            self.loaded.append(name)
            self._on_device.add(name)
            self.on_load(None)
        elif name not in self._on_device:
            self._to_device(name)
            self._on_device.add(name)
        return self._modules[name]

    def use(self, mode: Mode) -> None:
        """The next run is carried out in `mode`; what is kept in another form or place than it wants is given back."""
        self.mode, self.loading = mode, None
        self.release(*(name for name, form in self._forms.items() if form != self._form(name)))
        if mode.waits == "disk":
            self.release(*(self._modules.keys() - self._on_device))

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
        """A component for its settings alone, wherever it lies. One that is not loaded is without weights.

        Only for components of diffusers' classes.
        """
        if name in self._modules:
            return self._modules[name]
        if name not in self._bare:
            self._bare[name] = self._bare_of(name)
        return self._bare[name]

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
                self._send_away(*names)

    def release(self, *names: str) -> None:
        """Gives back the memory of these components; the next `get` loads them again."""
        held = [name for name in names if name in self._modules]
        # A denoiser whose way of working was changed forms a cycle, and so does what streams with its stream.
        thoroughly = any(name in DENOISERS or name in self._streams for name in held)
        for name in held:
            if name in self._streams:
                self._streams.pop(name).rest()
            del self._modules[name], self._forms[name]
        self._on_device.difference_update(held)
        if held:
            memory.free(self.device, thoroughly=thoroughly)

    def close(self) -> None:
        self.release(*tuple(self._modules))

    def _send_away(self, *names: str) -> None:
        if self.mode.waits == "disk":
            self.release(*names)
        else:
            self._to_host(*names)

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

    def _load(self, name: str) -> None:
        form, dtype = self._form(name), self.dtypes[name]
        if form.fp8 and gguf_of(self.checkpoint.folder, name) is not None:
            raise InputError(NO_FP8.en, NO_FP8.zh)
        if form.fp8:
            module = self._read_narrow(name, to=HOST if form.streamed else self.device)
        else:
            # What does not stream goes to the device tensor by tensor, so the host's memory never holds all of it.
            module = self._open(name, dtype, {} if form.streamed else {"device_map": {"": self.device}})
            change = self.adapt(name, module)
            for each, part in module.named_modules():
                change(each, part)
        if form.halved:
            module.decoder.to(HALF)
            module.post_quant_conv.to(HALF)
        if form.streamed:
            self._streams[name] = LayerStream(module, self.device)
            self._streams[name].work()
        else:
            module.to(self.device)
        self._modules[name], self._forms[name] = module, form

    def _open(self, name: str, dtype: torch.dtype, further: Mapping[str, Any]) -> Any:  # noqa: ANN401
        packed = gguf_of(self.checkpoint.folder, name)
        if packed is not None:
            device = further["device_map"][""] if further else HOST
            return load_packed(self._kinds[name], self.config(name), packed, dtype, device).eval()
        module = self._kinds[name].from_pretrained(
            self.checkpoint.folder,
            subfolder=name,
            dtype=dtype,
            variant=self.checkpoint.variant,
            use_safetensors=True,
            local_files_only=True,
            **further,
        )
        # requires_grad stays as it is loaded: PyTorch's matmul chooses its path, and with it the last bit, by it.
        return module.eval()

    def _read_narrow(self, name: str, to: torch.device) -> Any:  # noqa: ANN401
        """A denoiser in fp8, module by module: widened to what computes, changed, narrowed, moved. Of its full weights
        no more than one module is ever in memory."""
        dtype = self.dtypes[name]
        files = weight_files(self.checkpoint.folder / name, self.checkpoint.variant)
        # In the files' own type the weights stay on the disk until they are asked for; a cast would read them all.
        module = self._open(name, torch.float32 if is_fp32(files) else dtype, {})
        change = self.adapt(name, module)
        narrow = self._narrow_names(name)
        kept = tuple(module._keep_in_fp32_modules or ())
        for each, part in module.named_modules():
            own = dict(part.named_parameters(prefix=each, recurse=False))
            for key, weight in own.items():
                weight.data = weight.data.to(torch.float32 if set(kept) & set(key.split(".")) else dtype)
            change(each, part)
            for key, weight in own.items():
                weight.data = weight.data.to(to, FP8 if key in narrow else weight.dtype)
        module.enable_layerwise_casting(storage_dtype=FP8, compute_dtype=dtype)
        return module

    def _narrow_names(self, name: str) -> frozenset[str]:
        """The weights that diffusers' layerwise casting keeps in fp8, found on a model without memory."""
        bare = self._bare_of(name)
        bare.enable_layerwise_casting(storage_dtype=FP8, compute_dtype=self.dtypes[name])
        return frozenset(key for key, weight in bare.named_parameters() if weight.dtype == FP8)

    def _bare_of(self, name: str) -> Any:  # noqa: ANN401
        with torch.device("meta"):
            return self._kinds[name].from_config(self.config(name))

    def fingerprint(self, name: str) -> str:
        """A hash of the names, sizes and times of the component's files: changes when the files do."""
        stats = [
            (path.name, path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted((self.checkpoint.folder / name).glob("*"))
        ]
        return hashlib.sha256(repr((str(self.checkpoint.folder.resolve()), name, stats)).encode()).hexdigest()


def nothing(name: str, module: Any) -> None:  # noqa: ANN401
    """The `Change` that changes nothing."""


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def weight_files(folder: Path, variant: str | None) -> list[Path]:
    """The component's files of weights, those of `variant` where there is one."""
    files = sorted(folder.glob("*.safetensors"))
    return [file for file in files if f".{variant}." in file.name or f".{variant}-" in file.name] if variant else files


def is_fp32(files: Sequence[Path]) -> bool:
    """Whether most of the weights in the first of these files are in float32."""
    sizes: dict[bool, int] = {True: 0, False: 0}
    with safe_open(files[0], framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - it is no mapping
            weight = file.get_slice(key)
            sizes[weight.get_dtype() == "F32"] += math.prod(weight.get_shape())
    return sizes[True] > sizes[False]


def _move(module: Any, device: torch.device) -> None:  # noqa: ANN401
    """Also from within a step of the loop, where weights that were moved would become inference tensors for good."""
    with torch.inference_mode(False):
        module.to(device)


def load_tokenizer(folder: Path) -> Any:  # noqa: ANN401 - transformers chooses the class
    """The tokenizer of the checkpoint in `folder`."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
