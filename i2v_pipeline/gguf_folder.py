"""A model's folder made of GGUF files and the other parts of the model, all of them links. Copies and loads nothing."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from i2v_pipeline.errors import InputError, ModelError
from i2v_pipeline.gguf_files import COMPONENTS, config_of, read_gguf
from i2v_pipeline.hub import Checkpoint, cached_snapshot, files_of, find_checkpoint, missing_components
from i2v_pipeline.planning.architectures import Transformer, load_architectures
from i2v_pipeline.specs import DiffusionSpec, EngineSpec
from i2v_pipeline.types import Text


def without_denoisers(spec: EngineSpec) -> EngineSpec:
    """The engine's other parts alone. Raises `InputError` for one whose denoiser cannot be in GGUF."""
    if spec.diffusion is None or not spec.diffusion.components.keys() & set(COMPONENTS):
        raise InputError(
            f"{spec.id} has no denoiser that could be in GGUF. Choose one of the Wan engines.",
            f"{spec.id} 没有可用 GGUF 的去噪模型。请选择 Wan 系列引擎。",
        )
    others = {name: part for name, part in spec.diffusion.components.items() if name not in COMPONENTS}
    return replace(spec, diffusion=replace(spec.diffusion, components=others))


def make_folder(spec: EngineSpec, files: Sequence[Path], source: Path | None, target: Path) -> Path:
    """Links `files`, one for each denoiser, and the model's other parts into `target`: whole afterwards, or not there.

    Of two experts the first file is the one for high noise. The other parts are `source`'s, or the hub's cache's.
    Raises `InputError` for files that are no such weights or too many or few, for a `source` that lacks a part and for
    a `target` that is there already; `ModelError` where the cache has not all parts.
    """
    others = without_denoisers(spec).diffusion
    assert spec.diffusion is not None and others is not None
    names = [name for name in COMPONENTS if name in spec.diffusion.components]
    if len(files) != len(names):
        raise InputError(
            f"{spec.id} takes {len(names)} GGUF file(s), {len(files)} are given. Give one for each denoiser"
            f"{', the one for high noise first' if len(names) > 1 else ''}.",
            f"{spec.id} 需要 {len(names)} 个 GGUF 文件，给出了 {len(files)} 个。请为每个去噪模型给出一个"
            f"{'，高噪声的在前' if len(names) > 1 else ''}。",
        )
    if target.exists():
        raise InputError(
            f"{target} is there already. Rename it or take it away, or name another folder with --to.",
            f"{target} 已存在。请改名或移走，或用 --to 指定其他文件夹。",
        )
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: no such file. Check its name.", f"{file}：文件不存在。请检查名称。")
        _check_model(spec, file)
    parts = _parts_in(spec, others, source)
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        for part in files_of(Checkpoint(folder=parts, variant=None, revision=None), others):
            _link(part, unfinished / part.relative_to(parts))
        for name, file in zip(names, files, strict=True):
            _link(file, unfinished / name / file.name)
        find_checkpoint(spec, unfinished)
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _check_model(spec: EngineSpec, file: Path) -> None:
    """What the files are alike in tells nothing of which expert is which; the rest does."""
    config, denoiser = config_of(read_gguf(file)), load_architectures()[spec.id].denoiser
    assert isinstance(denoiser, Transformer)
    found = (config["in_channels"], "image_dim" in config, "vace_layers" in config)
    expected = (denoiser.channels_in, denoiser.image_tokens > 0, denoiser.control_layers > 0)
    if found != expected:
        (is_en, is_zh), (has_en, has_zh) = (_told(*each) for each in (found, expected))
        raise InputError(
            f"{file.name} is of another model: it takes {is_en}, {spec.id} takes {has_en}. Choose the engine that it "
            "belongs to.",
            f"{file.name} 属于其他模型：它需要{is_zh}，{spec.id} 需要{has_zh}。请选择对应的引擎。",
        )


def _told(channels: int, has_image: bool, has_branch: bool) -> tuple[str, str]:
    en = [
        f"{channels} channels",
        *(["an encoded picture"] if has_image else []),
        *(["references"] if has_branch else []),
    ]
    zh = [f" {channels} 个通道", *(["图像编码"] if has_image else []), *(["参考图"] if has_branch else [])]
    return " and ".join(en), "和".join(zh)


def _parts_in(spec: EngineSpec, others: DiffusionSpec, source: Path | None) -> Path:
    """The folder that has the model's other parts whole."""
    if source is None:
        snapshot = None if others.is_converted else cached_snapshot(others)
        if snapshot is None:
            command = f"python app.py models download {spec.id} --without-denoiser"
            way = Text("", "") if others.is_converted else Text(f", or type: {command}", f"，或执行：{command}")
            raise ModelError(
                f"{', '.join(others.components)} of {spec.id} are not on this machine. Name a folder that has them "
                f"with --from{way.en}",
                f"本机没有 {spec.id} 的 {'、'.join(others.components)}。请用 --from 指定含有它们的文件夹{way.zh}",
            )
        return snapshot
    missing = missing_components(source, others.components)
    missing += [] if any((source / "tokenizer").glob("*.json")) else ["tokenizer"]
    if missing:
        raise InputError(
            f"{source} lacks {', '.join(missing)}. Give a folder of the model in diffusers' layout.",
            f"{source} 缺少 {'、'.join(missing)}。请给出该模型 diffusers 格式的文件夹。",
        )
    return source


def _link(file: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(file.resolve())
