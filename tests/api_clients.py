"""How the tests speak to a running studio: the official clients, and requests by hand. Knows no assertion."""

from __future__ import annotations

import base64
import http.client
import io
import json
from typing import Any

import httpx2
import numpy as np
import openai
from PIL import Image
from running_studio import RunningStudio

TINY: dict[str, Any] = {"size": "64x64", "extra_body": {"frames": 2, "fps": 2, "refine": "offline", "seed": 7}}
"""The smallest video, ready in a moment where the camera stands still."""
ENDLESS: dict[str, Any] = {"size": "1920x1080", "extra_body": {"frames": 600, "fps": 24, "refine": "offline"}}
"""A video that no machine makes within a test."""
STILL = "static camera"


def picture(seed: int = 0, side: int = 64) -> bytes:
    """A small PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def client_of(studio: RunningStudio, key: str = "mine") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{studio.url}/v1", api_key=key)


def async_client_of(studio: RunningStudio, key: str, http: httpx2.AsyncClient) -> openai.AsyncOpenAI:
    """Fifty of them share `http`, since each would read the machine's certificates for itself."""
    return openai.AsyncOpenAI(base_url=f"{studio.url}/v1", api_key=key, timeout=300, http_client=http)


def http_client(studio: RunningStudio, key: str | None = "mine") -> httpx2.Client:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx2.Client(base_url=studio.url, headers=headers, timeout=60)


def ask(
    studio: RunningStudio, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """One request with exactly this path: nothing is normalised on the way, as an attacker would send it."""
    connection = http.client.HTTPConnection("127.0.0.1", studio.port, timeout=60)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def error_in(body: bytes) -> dict[str, Any]:
    """The error object of an answer; every field of it must be there."""
    error = json.loads(body)["error"]
    if set(error) != {"message", "message_zh", "type", "code", "param"}:
        raise ValueError(f"not an error object: {error}")
    return error
