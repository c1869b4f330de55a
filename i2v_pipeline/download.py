"""Downloads of an engine's model: how much is missing, whether it fits on the disk, then the files. Loads no weights.

Finished files stay in the hub's cache, so a download that was cut goes on with the files that are missing.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2

from i2v_pipeline.errors import InputError, ModelError
from i2v_pipeline.hub import GB, cache_folder, cached_snapshot, conversion_of, free_bytes, needed_files
from i2v_pipeline.specs import EngineSpec

DISK_RESERVE_BYTES = GB
"""Left free: a disk that is full to the last byte stops other programs, and the video needs a place too."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The needed files of one repository, as patterns."""

    repo: str
    revision: str
    patterns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Download:
    """What an engine needs from the hub, in bytes as the hub counts them, and how much of it is not here yet."""

    sources: tuple[Source, ...]
    files: int
    total_bytes: int
    missing_bytes: int
    free_bytes: int


def sources_of(spec: EngineSpec) -> tuple[Source, ...]:
    """The model and the LoRAs of the presets.

    Raises `InputError` for an engine that has no model, or one that has to be converted.
    """
    if spec.diffusion is None:
        raise InputError(
            f"{spec.id} is built in and needs no model. Nothing is to be done.", f"{spec.id} 为内置引擎，无需下载模型。"
        )
    if spec.diffusion.is_converted:
        way = conversion_of(spec)
        raise InputError(f"{spec.id} cannot be downloaded from here. {way.en}", f"{spec.id} 无法在此直接下载。{way.zh}")
    model = Source(
        repo=spec.diffusion.repo, revision=spec.diffusion.revision, patterns=tuple(needed_files(spec.diffusion))
    )
    loras = []
    for lora in (lora for preset in spec.presets.values() for lora in preset.loras):
        owner, name, file = lora.source.removeprefix("hf://").split("/", 2)
        loras.append(Source(repo=f"{owner}/{name}", revision="main", patterns=(file,)))
    return (model, *loras)


def plan_download(spec: EngineSpec) -> Download:
    """Asks the hub for the sizes. Raises `InputError` for an engine without a model, `ModelError` without an answer."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.utils import filter_repo_objects

    sources, files, total, missing = sources_of(spec), 0, 0, 0
    for source in sources:
        with _told_in_words(source):
            model = HfApi().model_info(source.repo, revision=source.revision, files_metadata=True)
        needed = list(
            filter_repo_objects(
                model.siblings or (), allow_patterns=list(source.patterns), key=lambda file: file.rfilename
            )
        )
        if not needed:
            raise ModelError(
                f"{source.repo} has none of the files that {spec.id} needs: {', '.join(source.patterns)}. "
                "The repository may have changed; use a local folder (--checkpoint).",
                f"{source.repo} 中没有 {spec.id} 所需的文件：{', '.join(source.patterns)}。"
                "仓库可能已变更；请使用本地模型文件夹（--checkpoint）。",
            )
        for file in needed:
            size = file.size or 0
            files, total = files + 1, total + size
            is_cached = isinstance(
                try_to_load_from_cache(source.repo, file.rfilename, cache_dir=cache_folder(), revision=model.sha), str
            )
            missing += 0 if is_cached else size
    return Download(
        sources=sources,
        files=files,
        total_bytes=total,
        missing_bytes=missing,
        free_bytes=free_bytes(cache_folder()),
    )


def check_disk(spec: EngineSpec, download: Download) -> None:
    """Raises `ModelError` where the missing files do not fit on the disk."""
    need = download.missing_bytes + DISK_RESERVE_BYTES
    if download.missing_bytes and need > download.free_bytes:
        raise ModelError(
            f"{spec.id} needs {need / GB:.1f} GB on the disk, 1 GB of it to stay free: {download.free_bytes / GB:.1f} "
            f"GB are free below {cache_folder()}. Make room, or set HF_HUB_CACHE to a folder on a larger disk.",
            f"{spec.id} 需要 {need / GB:.1f} GB 磁盘空间（其中保留 1 GB）：{cache_folder()} 所在磁盘只剩 "
            f"{download.free_bytes / GB:.1f} GB。请清理空间，或把 HF_HUB_CACHE 设为更大磁盘上的文件夹。",
        )


def fetch(spec: EngineSpec, download: Download) -> None:
    """Downloads what is missing, with the library's own progress on a terminal. Raises `ModelError` when it cannot."""
    from huggingface_hub import snapshot_download

    for source in download.sources:
        with _told_in_words(source):
            snapshot_download(
                source.repo,
                revision=source.revision,
                allow_patterns=list(source.patterns),
                cache_dir=cache_folder(),
            )
    if spec.diffusion is not None and cached_snapshot(spec.diffusion) is None:
        raise ModelError(
            f"{spec.diffusion.repo} was downloaded and still lacks weights that {spec.id} needs. "
            "The repository may have changed; use a local folder (--checkpoint).",
            f"{spec.diffusion.repo} 已下载，但仍缺少 {spec.id} 所需的权重。"
            "仓库可能已变更；请使用本地模型文件夹（--checkpoint）。",
        )


@contextmanager
def _told_in_words(source: Source) -> Iterator[None]:
    """Turns the library's many errors into one `ModelError` with a sentence."""
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, XetDownloadError

    try:
        yield
    except (OSError, httpx2.HTTPError, XetDownloadError) as error:
        # Where the library fell back to its cache, the reason stands behind the error.
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
        kept_en, kept_zh = "Finished files are kept; type the command again.", "已完成的文件会保留；请再次执行该命令。"
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            raise ModelError(
                f"{ENDPOINT} answered {status} for {source.repo}. "
                + (kept_en if status >= 500 else "Check HF_ENDPOINT, and HF_TOKEN if the model asks for a login."),
                f"{ENDPOINT} 对 {source.repo} 返回 {status}。"
                + (kept_zh if status >= 500 else "请检查 HF_ENDPOINT；若模型需要登录，请检查 HF_TOKEN。"),
            ) from error
        if isinstance(cause, OfflineModeIsEnabled):
            raise ModelError(
                "HF_HUB_OFFLINE is set: nothing is downloaded. Unset it to download.",
                "已设置 HF_HUB_OFFLINE：不会下载。需要下载时请取消该设置。",
            ) from error
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(
                f"The disk below {cache_folder()} is full. Make room. {kept_en}",
                f"{cache_folder()} 所在磁盘已满。请清理空间。{kept_zh}",
            ) from error
        if isinstance(cause, PermissionError):
            raise ModelError(
                f"{cache_folder()} cannot be written. Set HF_HUB_CACHE to a folder of yours.",
                f"无法写入 {cache_folder()}。请把 HF_HUB_CACHE 设为可写的文件夹。",
            ) from error
        raise ModelError(
            f"{source.repo} could not be downloaded from {ENDPOINT} ({type(cause).__name__}). Check the connection, or "
            f"set HF_ENDPOINT to a mirror. {kept_en}",
            f"无法从 {ENDPOINT} 下载 {source.repo}（{type(cause).__name__}）。请检查网络，"
            f"或把 HF_ENDPOINT 设为镜像站。{kept_zh}",
        ) from error
