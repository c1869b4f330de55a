"""The command line as a user types it: what it prints where, what it returns, and what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from i2v_pipeline.video import probe_video, read_picture, read_report
from studio.cli import main

ROOT = Path(__file__).parent.parent
CAT = ROOT / "examples" / "cat.jpg"
SMALL = ("--resolution", "160x120", "--frames", "8", "--fps", "8", "--refine", "offline")
TOP_LEVEL = [
    "refined_prompt", "parameters", "output_path", "schema", "job", "created", "engine", "prompt", "image",
    "references", "plan", "measured", "findings", "quality", "continuation", "environment", "output",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _english_without_keys(monkeypatch):
    for name in os.environ:
        if name.startswith(("I2V_REFINER", "MOONSHOT", "KIMI", "ZAI", "ZHIPU")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")


def run_cli(*arguments, **options):
    command = [sys.executable, str(ROOT / "app.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def generate(tmp_path, *options, prompt="猫转头，镜头向左摇", name="cat.mp4"):
    return run_cli("generate", CAT, prompt, "--engine", "camera", *SMALL, "--out", tmp_path / name, *options)


def test_generate_prints_one_json_object_that_stands_in_the_video_and_beside_it(tmp_path):
    done = generate(tmp_path, "--seed", "5", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert list(report) == TOP_LEVEL
    assert report == json.loads((tmp_path / "cat.json").read_text(encoding="utf-8"))
    assert report == read_report(tmp_path / "cat.mp4")
    assert read_picture(tmp_path / "cat.mp4") == ("JPEG", CAT.read_bytes())
    info = probe_video(tmp_path / "cat.mp4")
    assert (info.codec, info.width, info.height, info.fps, info.frames) == ("h264", 160, 120, 8.0, 8)
    assert report["output"]["bytes"] == (tmp_path / "cat.mp4").stat().st_size
    assert report["prompt"]["motion"]["camera"] == ["pan_left"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat.json", "cat.mp4"]


def test_the_same_command_twice_gives_the_same_frames_and_another_seed_another_take(tmp_path):
    hashes = [
        json.loads(generate(tmp_path, "--seed", seed, "--json", name=f"{index}.mp4").stdout)["output"]["frames_sha256"]
        for index, seed in enumerate(("5", "5", "6"))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_what_was_typed_is_what_is_sent_when_refining_is_off(tmp_path):
    prompt = '  slowly push in "OPEN"  '
    done = generate(tmp_path, "--refine", "off", "--json", prompt=prompt)
    report = json.loads(done.stdout)
    assert report["prompt"]["typed"] == report["prompt"]["sent"] == report["refined_prompt"] == prompt
    assert report["prompt"]["source"] == "typed"


def test_the_source_picture_can_be_left_out(tmp_path):
    generate(tmp_path, "--no-source")
    assert read_picture(tmp_path / "cat.mp4") is None
    assert read_report(tmp_path / "cat.mp4")["parameters"]["embed_source"] is False


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--guidance", "9"), "Guidance 9.0"),
        (("--steps", "50"), "Steps 50"),
        (("--negative", "blurry"), "egative prompt"),
        (("--device", "cuda"), "--device cuda"),
        (("--checkpoint", "."), "--checkpoint"),
        (("--resolution", "99p"), "'99p'"),
        (("--resolution", "161x120"), "161"),
        (("--frames", "601"), "601"),
        (("--seed", "-1"), "-1"),
        (("--engine", "nope"), "'nope'"),
        (("--out", "video.gif"), ".mp4"),
    ],
)
def test_what_the_engine_cannot_do_is_refused_before_anything_runs(tmp_path, monkeypatch, capsys, options, told):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", str(CAT), "x", *SMALL, "--json", *options]) == 2
    printed = capsys.readouterr()
    assert told in printed.err
    assert told in json.loads(printed.out)["error"]["message"]
    assert json.loads(printed.out)["error"]["message_zh"]
    assert "Prompt sent" not in printed.err
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_is_none_is_refused_in_words(tmp_path, capsys):
    note = tmp_path / "note.png"
    note.write_text("no picture")
    assert main(["generate", str(note), "x"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_ctrl_c_ends_with_130_and_leaves_nothing(tmp_path):
    command = [sys.executable, str(ROOT / "app.py"), "generate", str(CAT), "x", "--resolution", "1280x720"]
    running = subprocess.Popen(
        [*command, "--frames", "600", "--refine", "offline", "--out", str(tmp_path / "long.mp4")],
        stderr=subprocess.PIPE,
        text=True,
        # As in a terminal: programs that a shell starts in its background ignore Ctrl+C from the start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".long*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=30)
    assert running.returncode == 130
    assert told.rstrip().endswith("Cancelled.")
    assert list(tmp_path.iterdir()) == []


def test_refine_prints_the_result_of_the_contract(capsys):
    assert main(["refine", "海浪拍打礁石，镜头慢慢推近", "--engine", "camera", "--mode", "offline", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["camera_motion"] == ["zoom_in"]
    assert result["camera_requested"] is True
    assert result["speed"] == "slow_motion"
    assert result["source"] == "offline"
    assert "海浪拍打礁石" in result["refined_prompt"]


def test_doctor_says_what_is_ready_and_never_a_key(monkeypatch, capsys):
    monkeypatch.setenv("MOONSHOT_API_KEY", "sk-secret-1234567890")
    assert main(["doctor", "--json"]) == 0
    printed = capsys.readouterr().out
    diagnosis = json.loads(printed)
    assert {"python", "ffmpeg", "engine camera", "disk"} <= {part["name"] for part in diagnosis["ready"]}
    missing = {part["name"].removeprefix("engine "): part["detail"] for part in diagnosis["missing"]}
    ways = {name: "convert kaleido" if name == "kaleido-14b-s2v" else f"download {name}" for name in missing}
    assert all(f"python app.py models {ways[name]}" in detail for name, detail in missing.items())
    assert diagnosis["refiner"]["configured"] is True
    assert "sk-secret" not in printed


def test_models_list_names_every_engine(capsys):
    assert main(["models", "list"]) == 0
    assert "camera" in capsys.readouterr().out


def test_messages_follow_the_language_of_the_terminal(monkeypatch, capsys):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert main(["generate", str(CAT), "x", "--engine", "nope"]) == 2
    assert "没有名为" in capsys.readouterr().err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_early_is_no_failure(unbuffered):
    command = [sys.executable, str(ROOT / "app.py"), "models", "list"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
