"""Whose job it is: a browser by its cookie, a program by its key, with a login the user. Knows no route and no store.

Cookie and key are secrets that only their holder has; the owner's name is made from them and tells neither.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers

OWNER_HEADER = "x-studio-owner"
"""How the shell tells everything behind it who asks. What a client sends under this name never gets through."""

COOKIE = "i2v_browser"
COOKIE_DAYS = 400
"""Browsers keep no cookie longer; each visit renews it."""
_TOKEN_BYTES = 32
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


def owner_of(headers: Headers) -> str | None:
    """The owner that the shell found for a request; None for a stranger without cookie and key."""
    name = headers.get(OWNER_HEADER)
    # A header is decoded as Latin-1, whatever the bytes are.
    return None if name is None else name.encode("latin-1").decode()


def new_token() -> str:
    """What a browser that comes for the first time gets to be known by."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def token_of(headers: Headers) -> str | None:
    """The token in a browser's cookie; None where there is none of ours."""
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return morsel.value if morsel is not None and _TOKEN.fullmatch(morsel.value) else None


def cookie_for(token: str, *, is_secure: bool) -> str:
    """The Set-Cookie header: no script reads it, no foreign site's form or frame sends it."""
    parts = [f"{COOKIE}={token}", "Path=/", f"Max-Age={COOKIE_DAYS * 86400}", "HttpOnly", "SameSite=Lax"]
    return "; ".join([*parts, "Secure"] if is_secure else parts)


def browser_owner(token: str) -> str:
    return f"browser:{_digest(token)}"


def key_owner(key: str) -> str:
    return f"key:{_digest(key)}"


def key_of(authorization: str) -> str | None:
    """The key in `Authorization: Bearer KEY`; None for anything else."""
    scheme, _, key = authorization.partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def login_of(authorization: str) -> bytes | None:
    """The `USER:PASS` in `Authorization: Basic ...`; None for anything else."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()[:32]
