"""A written video plays in a real browser, with its colours, whatever is put into the file."""

from __future__ import annotations

import base64
import functools
import io
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser
from video_frames import PATCH_SIDE, PATCHES, patches

from i2v_pipeline.video import finish_video, write_video


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which it is served."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.browser
def test_chromium_plays_the_file_and_shows_its_colours(site: tuple[Path, str], chromium: Browser) -> None:
    folder, address = site
    frames = patches(48)
    height, width = frames.shape[1:3]
    write_video([frames], folder / "draft.mp4", width=width, height=height, fps=24)
    report = {"prompt": "猫 </script>" * 500}
    finish_video(folder / "draft.mp4", folder / "v.mp4", make_report=lambda _: report, picture=("PNG", bytes(500_000)))
    (folder / "index.html").write_text("<!doctype html><title>video</title>")

    page = chromium.new_page()
    page.goto(address)
    seen = page.evaluate(
        """async () => {
            const video = document.createElement("video");
            video.muted = true;
            video.src = "v.mp4";
            const ended = new Promise((done, fail) => {
                video.onended = done;
                video.onerror = () => fail(video.error.message);
            });
            await video.play();
            await ended;
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
            canvas.getContext("2d").drawImage(video, 0, 0);
            return {
                size: [video.videoWidth, video.videoHeight],
                duration: video.duration,
                position: video.currentTime,
                picture: canvas.toDataURL("image/png"),
            };
        }"""
    )
    page.close()

    assert seen["size"] == [width, height]
    assert seen["duration"] == pytest.approx(2.0, abs=0.001)
    assert seen["position"] == pytest.approx(2.0, abs=0.05)
    shown = np.array(Image.open(io.BytesIO(base64.b64decode(seen["picture"].partition(",")[2]))).convert("RGB"))
    middles = shown[PATCH_SIDE // 2, PATCH_SIDE // 2 :: PATCH_SIDE].astype(int)
    # Without a GPU Chromium converts by libyuv, whose BT.709 factor for blue is 2.0 instead of 2.112 (row_common.cc).
    assert (np.abs(middles - PATCHES).max(0) <= (4, 4, 14)).all()
