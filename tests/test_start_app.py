"""start_app.sh in a copy of the tree, with a small real server in the place of app.py. Knows nothing of the studio."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]

STAND_IN = """
import argparse, http.server, os, signal, sys
parser = argparse.ArgumentParser()
parser.add_argument("command")
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=7860)
parser.add_argument("--data")
arguments = parser.parse_args()
print("the studio says hello")
if os.environ.get("STAND_IN") == "dies":
    sys.exit("the reason why it ended")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
server = http.server.ThreadingHTTPServer((arguments.host, arguments.port), http.server.SimpleHTTPRequestHandler)
try:
    server.serve_forever()
except KeyboardInterrupt:
    print("the studio says goodbye")
    sys.exit(130)
"""


class Tree:
    """A copy of the scripts beside a stand-in for app.py; every run gets an environment of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        shutil.copy(ROOT / "start_app.sh", folder)
        shutil.copytree(ROOT / "scripts", folder / "scripts")
        (folder / "app.py").write_text(STAND_IN, encoding="utf-8")
        write_wheel(folder / "tiny_part-1.0-py3-none-any.whl")
        (folder / "requirements.txt").write_text("./tiny_part-1.0-py3-none-any.whl\n", encoding="utf-8")

    def run(self, *options: object, script: Path | None = None, cwd: Path | None = None, **variables: str) -> Ended:
        started = subprocess.run(
            [str(script or self.folder / "start_app.sh"), *map(str, options)],
            cwd=cwd or self.folder,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        return Ended(started.returncode, started.stdout)

    @property
    def pid_path(self) -> Path:
        return self.folder / "data" / "app.pid"


class Ended:
    def __init__(self, code: int, output: str) -> None:
        self.code = code
        self.output = output

    def __repr__(self) -> str:
        return f"exit code {self.code}\n{self.output}"


def environment(**variables: str) -> dict[str, str]:
    left_out = {"VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "STUDIO_DATA", "PYTHON", "PYTHONPATH"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "LC_ALL": "C.UTF-8", **variables}


def write_wheel(path: Path) -> None:
    metadata = "Metadata-Version: 2.1\nName: tiny-part\nVersion: 1.0\n"
    wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    names = ("tiny_part.py", "tiny_part-1.0.dist-info/METADATA", "tiny_part-1.0.dist-info/WHEEL")
    record = "".join(f"{name},,\n" for name in (*names, "tiny_part-1.0.dist-info/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in zip(names, ("", metadata, wheel), strict=True):
            archive.writestr(name, text)
        archive.writestr("tiny_part-1.0.dist-info/RECORD", record)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tree, int, Ended]]:
    """A fresh tree in a folder with a space in its name, and how its first start went."""
    tree = Tree(tmp_path_factory.mktemp("start") / "a tree")
    port = free_port()
    ended = tree.run("--background", "--port", port)
    yield tree, port, ended
    tree.run("--stop")


@pytest.fixture
def tree(first: tuple[Tree, int, Ended]) -> Iterator[Tree]:
    """The same tree with nothing running, its environment ready and psutil in it, as in the real one."""
    tree, _, _ = first
    tree.run("--stop")
    packages = next((tree.folder / ".venv" / "lib").glob("python*/site-packages"))
    (packages / "test.pth").write_text(str(Path(psutil.__file__).parents[1]), encoding="utf-8")
    yield tree
    tree.run("--stop")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_the_first_start_makes_the_environment_installs_and_serves(first: tuple[Tree, int, Ended]) -> None:
    tree, port, ended = first
    assert ended.code == 0, ended
    assert "Making the environment .venv" in ended.output
    assert "Installing requirements.txt into .venv" in ended.output
    assert f"http://127.0.0.1:{port}" in ended.output
    assert answers(port)
    (log,) = (tree.folder / "logs").iterdir()
    assert re.fullmatch(r"app_\d{8}_\d{6}\.log", log.name)
    assert "the studio says hello" in log.read_text(encoding="utf-8")
    assert str(log) in ended.output
    assert (tree.folder / "data").is_dir()


def test_the_second_start_takes_no_install_step(tree: Tree) -> None:
    ended = tree.run("--background", f"--port={free_port()}")
    assert ended.code == 0, ended
    assert "Making" not in ended.output
    assert "Installing" not in ended.output


def test_edited_requirements_are_installed_again_and_a_failure_is_not_taken_for_done(
    tree: Tree, taken_port: int
) -> None:
    path = tree.folder / "requirements.txt"
    good = path.read_text(encoding="utf-8")
    try:
        path.write_text(good + "./missing_part-1.0-py3-none-any.whl\n", encoding="utf-8")
        for _ in range(2):
            ended = tree.run("--port", taken_port)
            assert ended.code == 1
            assert "Installing requirements.txt failed" in ended.output
            assert "missing_part" in ended.output
    finally:
        path.write_text(good, encoding="utf-8")
    assert "Installing" not in tree.run("--port", taken_port).output


def test_a_taken_port_is_told_with_its_holder_and_another_is_named(tree: Tree, taken_port: int) -> None:
    ended = tree.run("--port", taken_port)
    assert ended.code == 1
    holder = " ".join(psutil.Process().cmdline()[:3])
    assert f"[ERROR] Port {taken_port} is taken by process {os.getpid()} {holder}" in ended.output
    assert f"./start_app.sh --port {taken_port + 1}" in ended.output


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
def test_an_address_that_is_not_this_machines_is_told(tree: Tree, host: str) -> None:
    ended = tree.run("--host", host, "--port", free_port())
    assert ended.code == 1
    assert f"Cannot listen on {host}" in ended.output
    assert "Traceback" not in ended.output


def test_a_start_that_fails_shows_why_and_leaves_nothing_running(tree: Tree) -> None:
    ended = tree.run("--background", "--port", free_port(), STAND_IN="dies")
    assert ended.code == 1
    assert "the reason why it ended" in ended.output
    assert not tree.pid_path.exists()


def test_status_and_stop_tell_the_truth(tree: Tree) -> None:
    port = free_port()
    assert tree.run("--status").code == 1
    tree.run("--background", "--port", port)
    status = tree.run("--status")
    assert status.code == 0
    assert f"http://127.0.0.1:{port}" in status.output
    assert tree.pid_path.read_text(encoding="utf-8").splitlines()[0] in status.output
    again = tree.run("--port", free_port())
    assert again.code == 1
    assert f"It runs already: http://127.0.0.1:{port}" in again.output
    stopped = tree.run("--stop")
    assert stopped.code == 0
    assert "Stopped" in stopped.output
    assert not answers(port)
    assert tree.run("--status").code == 1
    assert tree.run("--stop").code == 0


def test_stop_never_ends_a_process_that_is_not_the_studio(tree: Tree) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        tree.pid_path.write_text(f"{other.pid}\nhttp://127.0.0.1:1\n/nowhere.log\n", encoding="utf-8")
        assert tree.run("--status").code == 1
        ended = tree.run("--stop")
        assert ended.code == 0
        assert "not running" in ended.output
        assert other.poll() is None
        assert not tree.pid_path.exists()
    finally:
        other.kill()
        other.wait()


def test_ctrl_c_in_the_foreground_stops_cleanly_with_the_last_words_in_terminal_and_log(tree: Tree) -> None:
    port = free_port()
    studio = subprocess.Popen(
        [str(tree.folder / "start_app.sh"), "--port", str(port)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A terminal sends Ctrl+C to the whole process group, and no program in it ignores that from the start, as those
        # do that a shell started in its background.
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 60
        while not answers(port) and studio.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert tree.run("--status").code == 0
        os.killpg(studio.pid, signal.SIGINT)
        output, _ = studio.communicate(timeout=60)
    finally:
        studio.kill()
        studio.wait()
    assert studio.returncode == 130, output
    log = max((tree.folder / "logs").iterdir(), key=lambda path: path.stat().st_mtime_ns).read_text(encoding="utf-8")
    for text in (output, log):
        assert f"http://127.0.0.1:{port}" in text
        assert "the studio says hello" in text
        assert "the studio says goodbye" in text
    assert tree.run("--status").code == 1


def test_it_starts_through_a_link_from_another_directory_whose_data_folder_it_takes(tree: Tree, tmp_path: Path) -> None:
    link = tmp_path / "studio"
    link.symlink_to(tree.folder / "start_app.sh")
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    port = free_port()
    ended = tree.run("--background", "--port", port, "--data", "my data", script=link, cwd=elsewhere)
    assert ended.code == 0, ended
    try:
        assert answers(port)
        assert (elsewhere / "my data" / "app.pid").exists()
    finally:
        assert "Stopped" in tree.run("--stop", "--data", "my data", script=link, cwd=elsewhere).output


def test_it_speaks_chinese_where_the_terminal_does(tree: Tree, taken_port: int) -> None:
    ended = tree.run("--port", taken_port, LC_ALL="zh_CN.UTF-8")
    assert "环境已就绪" in ended.output
    assert f"[ERROR] 端口 {taken_port} 已被占用" in ended.output


@pytest.mark.parametrize("kind", ["virtualenv", "conda"])
def test_the_active_environment_is_used_and_named(tree: Tree, tmp_path: Path, taken_port: int, kind: str) -> None:
    other = Tree(tmp_path / "other")
    active = str(tree.folder / ".venv")
    if kind == "virtualenv":
        ended = other.run("--port", taken_port, VIRTUAL_ENV=active)
    else:
        ended = other.run("--port", taken_port, CONDA_PREFIX=active, CONDA_DEFAULT_ENV="torch28")
    assert f"Environment: {active if kind == 'virtualenv' else 'conda torch28'}" in ended.output
    assert not (other.folder / ".venv").exists()


def test_condas_base_environment_is_left_alone_and_that_is_said(tree: Tree, taken_port: int) -> None:
    ended = tree.run("--port", taken_port, CONDA_PREFIX=sys.prefix, CONDA_DEFAULT_ENV="base")
    assert "conda's base environment is left as it is" in ended.output
    assert "Environment: .venv" in ended.output


def test_a_python_that_does_not_fit_is_refused(tree: Tree, tmp_path: Path) -> None:
    ended = Tree(tmp_path / "other").run(PYTHON="/nowhere/python")
    assert ended.code == 1
    assert "PYTHON=/nowhere/python is not a Python 3.10 or newer" in ended.output


@pytest.mark.parametrize(
    "options", [["--prot", "1"], ["--port"], ["--port", "seven"], ["--port", "70000"], ["--port", "0"]]
)
def test_a_wrong_option_is_refused_before_anything_is_done(tree: Tree, options: list[str]) -> None:
    ended = tree.run(*options)
    assert ended.code == 2
    assert "[ERROR]" in ended.output
    assert "🚀" not in ended.output


def test_it_takes_exactly_the_options_that_serve_takes() -> None:
    from studio.cli import build_parser

    (commands,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    serve = {option for option in commands.choices["serve"]._option_string_actions if option.startswith("--")}
    usage = subprocess.run([str(ROOT / "start_app.sh"), "--help"], capture_output=True, text=True, env=environment())
    told = set(re.findall(r"^ +(--[a-z]+)", usage.stdout, flags=re.MULTILINE))
    assert told - {"--background", "--status", "--stop"} == serve - {"--help"}
