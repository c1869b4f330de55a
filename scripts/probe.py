"""Small questions that the shell scripts ask Python: a stamp of files, who holds a port, does a page answer.

Knows no studio code and, but for psutil where it is there, only the standard library: it runs before anything is
installed. Prints data; the words around it are the shell's.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import http.client
import os
import platform
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

EXIT_NO = 1
EXIT_PROCESS_ENDED = 3
COMMAND_WORDS = 3
"""How much of a foreign command line is shown: enough to know it, and no password that stands further on."""


def stamp(files: list[Path]) -> str:
    """Changes when a file or the interpreter does."""
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()
    return f"{platform.python_implementation()} {platform.python_version()} {digest}"


def port_obstacle(host: str, port: int) -> str | None:
    """Why a server cannot listen there: `taken`, or the system's own words; None when it can."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do, so that the rests of closed connections do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        return "taken" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
    return None


def port_holder(port: int) -> str | None:
    """`PID COMMAND` of the process that listens on the port; None where the system does not tell."""
    try:
        import psutil
    except ImportError:
        return None
    # Process by process: macOS shows the whole table to root alone.
    for process in psutil.process_iter():
        try:
            connections = process.net_connections(kind="tcp")
            if any(c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port for c in connections):
                return f"{process.pid} {' '.join(process.cmdline()[:COMMAND_WORDS]) or process.name()}"
        except psutil.Error:
            continue
    return None


def page_answers(url: str, timeout_s: float) -> bool:
    """Whether anything speaks HTTP there, whatever it says. Proxies of the environment are not asked."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(url, timeout=timeout_s).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, http.client.HTTPException):
        return False
    return True


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def wait_for_page(url: str, pid: int, timeout_s: float) -> int:
    """0 when the page answers, 3 when the process ended before, 1 when the time is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not is_alive(pid):
            return EXIT_PROCESS_ENDED
        if page_answers(url, timeout_s=5):
            return 0
        time.sleep(0.2)
    return EXIT_NO


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    stamping = commands.add_parser("stamp")
    stamping.add_argument("files", nargs="+", type=Path)
    port = commands.add_parser("port")
    port.add_argument("host")
    port.add_argument("port", type=int)
    wait = commands.add_parser("wait")
    wait.add_argument("url")
    wait.add_argument("pid", type=int)
    wait.add_argument("timeout_s", type=float)
    answer = commands.add_parser("answers")
    answer.add_argument("url")
    arguments = parser.parse_args()
    if arguments.command == "stamp":
        print(stamp(arguments.files))
        return 0
    if arguments.command == "port":
        obstacle = port_obstacle(arguments.host, arguments.port)
        if obstacle is None:
            return 0
        print(port_holder(arguments.port) or "" if obstacle == "taken" else f"! {obstacle}")
        return EXIT_NO
    if arguments.command == "wait":
        return wait_for_page(arguments.url, arguments.pid, arguments.timeout_s)
    return 0 if page_answers(arguments.url, timeout_s=5) else EXIT_NO


if __name__ == "__main__":
    sys.exit(main())
