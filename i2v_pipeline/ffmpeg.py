"""Runs the ffmpeg binary that imageio-ffmpeg ships, and puts its failures into words. Knows no option of it."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from i2v_pipeline.errors import InputError, VideoError
from i2v_pipeline.types import U8Frames

MAX_MESSAGE_LINES = 1000

_log = logging.getLogger(__name__)
_DISK_FULL = ("No space left on device", "Disk quota exceeded", "File too large")


class Ffmpeg:
    """A running ffmpeg. A thread drains its messages, so that they can never fill their pipe and stop it."""

    def __init__(self, command: Sequence[str], *, is_fed: bool) -> None:
        # In a session of its own Ctrl+C reaches us alone, so that a cancel is told as one and not as a dead encoder.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if is_fed else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._is_fed = is_fed
        self._lines: deque[bytes] = deque(maxlen=MAX_MESSAGE_LINES)
        self._drain = threading.Thread(target=self._keep_messages, daemon=True)
        self._drain.start()

    def feed(self, data: memoryview) -> None:
        """Gives it input. Raises `VideoError` when it is no longer there to take it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
        except OSError as error:
            raise self._failure() from error

    def read_all(self) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.read()

    def read_line(self) -> bytes:
        """The next short line of its output, empty at the end."""
        assert self._process.stdout is not None
        return self._process.stdout.readline(64)

    def fill(self, frames: U8Frames) -> bool:
        """Reads the next bytes of its output into an array; false when there were too few."""
        assert self._process.stdout is not None
        return self._process.stdout.readinto(frames.data.cast("B")) == frames.nbytes  # type: ignore[attr-defined]

    def finish(self) -> str:
        """Waits for its end and returns its messages. Raises `VideoError` or `InputError` when it failed."""
        if self._process.stdin is not None:
            # What is still buffered may meet a process that is gone; its exit status then tells.
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if self._process.wait() != 0:
            raise self._failure()
        return self._messages()

    def kill(self) -> None:
        """Ends it at once, if it still runs."""
        self._process.kill()
        self._process.wait()
        self._drain.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def _keep_messages(self) -> None:
        assert self._process.stderr is not None
        self._lines.extend(self._process.stderr)

    def _messages(self) -> str:
        self._drain.join()
        return b"".join(self._lines).decode("utf-8", "replace")

    def _failure(self) -> InputError | VideoError:
        status, messages = self._process.wait(), self._messages()
        _log.error("ffmpeg ended with status %s: %s", status, messages[-2000:].strip())
        if any(words in messages for words in _DISK_FULL):
            return disk_full()
        if self._is_fed:
            return VideoError(
                "The video could not be written: the encoder stopped. Try again; the log has its last words.",
                "视频未能写入：编码器中途停止。请重试；详细信息见日志。",
            )
        if "Error opening input" in messages or "matches no streams" in messages:
            return InputError(
                "This file is not a video that can be read: MP4, MOV, WebM, MKV, AVI and GIF can. Give one of these.",
                "该文件不是可以读取的视频：支持 MP4、MOV、WebM、MKV、AVI 和 GIF。请提供其中一种。",
            )
        return damaged()


@contextlib.contextmanager
def run_ffmpeg(options: Sequence[str], *, level: str = "error", is_fed: bool = False) -> Iterator[Ffmpeg]:
    """Runs ffmpeg while the block runs: killed when the block raises, waited for and judged when it ends.

    `is_fed` says that the block writes to its input. Raises `VideoError` or `InputError` when ffmpeg fails.
    """
    # Its import looks for the package's resources, which not every command needs.
    from imageio_ffmpeg import get_ffmpeg_exe

    try:
        running = Ffmpeg([get_ffmpeg_exe(), "-hide_banner", "-nostats", "-v", level, "-y", *options], is_fed=is_fed)
    except (OSError, RuntimeError) as error:
        raise VideoError(
            "There is no ffmpeg that runs on this machine. Install imageio-ffmpeg anew, or name an ffmpeg in the "
            "environment variable IMAGEIO_FFMPEG_EXE.",
            "本机没有可运行的 ffmpeg。请重新安装 imageio-ffmpeg，或用环境变量 IMAGEIO_FFMPEG_EXE 指定一个 ffmpeg。",
        ) from error
    try:
        yield running
        running.finish()
    finally:
        running.kill()


def url_of(path: Path) -> str:
    """A name that ffmpeg takes for a file, whatever characters it begins with or holds."""
    return f"file:{path.absolute()}"


def disk_full() -> VideoError:
    return VideoError(
        "The disk is full, or its limit for one file is reached, so the video was not written. Free some space and try "
        "again.",
        "磁盘空间不足（或达到单个文件的大小上限），视频未写入。请清理磁盘空间后重试。",
    )


def damaged() -> VideoError:
    return VideoError(
        "The video is damaged: it cannot be decoded to its end. Get it from its source again.",
        "视频已损坏，无法完整解码。请重新获取该文件。",
    )
