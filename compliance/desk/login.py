"""Who may read the desk where it is not on loopback: whoever holds the token. Nothing is kept but a signed cookie."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import stat
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Final

from compliance.clock import now
from compliance.errors import InputError
from compliance.files import quoted, read_bytes

LOGIN: Final = "/login"
_COOKIE: Final = "residency-desk"
_LASTS_S: Final = 8 * 3600
_SHORTEST, _LONGEST = 32, 512  # characters of a token


class Login:
    """One token, and a key for cookies that is made at the start and forgotten at the end."""

    def __init__(self, token: str, *, secure: bool) -> None:
        """`secure`: the page is served over TLS, so the cookie goes nowhere else."""
        self._digest, self._key, self._secure = _digest(token), secrets.token_bytes(32), secure

    def right(self, token: str) -> bool:
        """Whether it is the token; takes the same time wherever it differs."""
        return hmac.compare_digest(_digest(token), self._digest)

    def cookie(self) -> str:
        """A Set-Cookie value that lets its holder in for eight hours."""
        until = str(int(now().timestamp()) + _LASTS_S)
        secure = "; Secure" if self._secure else ""
        value = f"{until}.{self._sign(until)}"
        return f"{_COOKIE}={value}; Max-Age={_LASTS_S}; Path=/; HttpOnly; SameSite=Strict{secure}"

    def knows(self, authorization: str, cookies: str) -> bool:
        """Whether one of these headers lets its sender in."""
        kind, _, token = authorization.partition(" ")
        if kind.lower() == "bearer" and self.right(token.strip()):
            return True
        try:
            held = SimpleCookie(cookies).get(_COOKIE)
        except CookieError:
            return False
        until, _, signature = held.value.partition(".") if held else ("", "", "")
        if not hmac.compare_digest(signature.encode(), self._sign(until).encode()):
            return False
        return until.isascii() and until.isdecimal() and int(until) > now().timestamp()

    def _sign(self, until: str) -> str:
        return hmac.new(self._key, until.encode(), hashlib.sha256).hexdigest()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", errors="surrogatepass")).digest()


def read_token(path: Path) -> str:
    """The token in a file that nobody else may read. Raises InputError RSD-9187, RSD-2005."""
    token = read_bytes(path, "token", _LONGEST + 2).decode("utf-8", errors="replace").strip()
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise _bad("others may read the token file", f"mode {mode:04o}", "mode 0600", f"chmod 600 {quoted(path)}")
    if not (token.isascii() and token.isprintable() and " " not in token and _SHORTEST <= len(token) <= _LONGEST):
        limit = f"{_SHORTEST} to {_LONGEST} printable characters without a space"
        raise _bad("the token is no long random word", f"{len(token)} characters", limit, "openssl rand -hex 32")
    return token


def _bad(message: str, found: str, limit: str, what: str) -> InputError:
    return InputError(
        "RSD-9187", message, rule="the token is a secret, long and random", found=found, limit=limit, next=what
    )
