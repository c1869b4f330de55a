"""A real llama.cpp server in a process of its own, and what it is asked beside chat. Knows no test."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_refiner import RefinerSettings

KEY = "sk-of-this-server"
START_S = 60
PROGRAM = Path(__file__).with_name("llama_program.py")


@dataclass(frozen=True, kw_only=True)
class Llama:
    """A running server. `url` has no path."""

    url: str
    process: subprocess.Popen[str]

    def settings(self, provider: str = "llama.cpp", key: str | None = KEY) -> RefinerSettings:
        return RefinerSettings(provider=provider, base_url=f"{self.url}/v1", model="tiny", api_key=key)

    def is_busy(self) -> bool:
        return self._slot()["is_processing"]

    def is_writing(self) -> bool:
        slot = self._slot()
        return slot["is_processing"] and slot["next_token"][0]["n_decoded"] > 0

    def written(self) -> int:
        """Tokens of all answers that were written to their end."""
        lines = (line.split() for line in self._get("/metrics").splitlines())
        return next(int(line[1]) for line in lines if line[0] == "llamacpp:tokens_predicted_total")

    def _slot(self) -> dict[str, Any]:
        return json.loads(self._get("/slots"))[0]

    def _get(self, path: str) -> str:
        request = urllib.request.Request(f"{self.url}{path}", headers={"Authorization": f"Bearer {KEY}"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=START_S) as answer:
            return answer.read().decode()


@contextmanager
def serving_llama(model: Path, context: int = 16384) -> Iterator[Llama]:
    """Serves the GGUF file until the block ends, for texts of at most `context` tokens."""
    command = [sys.executable, str(PROGRAM), str(model), KEY, str(context)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        llama = Llama(url=process.stdout.readline().strip(), process=process)
        assert llama.url, f"the server ended with {process.wait()}"
        wait_until_ready(llama)
        yield llama
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
        process.stdout.close()


def wait_until_ready(llama: Llama) -> None:
    ends = time.monotonic() + START_S
    while True:
        try:
            llama.is_busy()
        except urllib.error.HTTPError:
            assert time.monotonic() < ends, "the model is still loading"
            time.sleep(0.05)
        else:
            return
