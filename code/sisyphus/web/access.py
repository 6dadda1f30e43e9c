"""Who may ask the web page: by which name it was reached, with which token, from which page.

A page that only listens on this machine can still be asked by other pages of the same browser, under names
that lead to it (DNS rebinding), and by other people of the machine. So names are checked always, tokens where
the page is reached from elsewhere or can act, and what acts is taken from this page alone.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""Of every answer. Styles may stand in the page because Plotly puts them there; scripts may not."""


def make_token() -> str:
    """Return a new token of 256 random bits."""
    return secrets.token_urlsafe(32)


def is_loopback(host: str) -> bool:
    """Whether an address or name, as given to ``--host``, is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def names_of_machine(host: str) -> frozenset[str]:
    """Return the names by which a page may be asked that listens on an address."""
    names = {"localhost"}
    if not is_loopback(host):
        names |= {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
    return frozenset(names)


@dataclass(frozen=True)
class Access:
    """The rules."""

    names: frozenset[str] = frozenset({"localhost"})
    """Host names, lower case; addresses are always allowed, since no foreign name stands behind them."""
    token: str | None = None
    """What must be known; None: nothing."""

    def knows_host(self, host: str) -> bool:
        """Whether a ``Host`` header names this server.

        Args:
            host: name or address, with or without port.
        """
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return True

    def knows_token(self, token: str) -> bool:
        """Whether a token is right; takes as long whatever it is."""
        return self.token is None or hmac.compare_digest(token.encode(), self.token.encode())


class Guard:
    """Lets a request through to an application, or not.

    Args:
        app: the application.
        access: the rules.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        """What is answered instead of what was asked for; None if nothing speaks against that."""
        host = request.headers.get("host", "")
        if not self._access.knows_host(host):
            return _error(421, f"This server is not called {host!r}. Use its address, or sis web --name.")
        if request.method not in ("GET", "HEAD"):
            origin = request.headers.get("origin")
            if origin is None or urlsplit(origin).netloc != host:
                return _error(403, "Only the page of this server may do that.")
        cookie = f"sisyphus_{request.url.port or 80}"
        asked = request.query_params.get("token")
        if request.url.path == "/" and asked is not None and self._access.knows_token(asked):
            response = RedirectResponse("/", status_code=303)  # the token does not stay in the address line
            response.set_cookie(cookie, asked, httponly=True, samesite="strict", path="/")
            return response
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        token = given if scheme.lower() == "bearer" else request.cookies.get(cookie, "")
        if not self._access.knows_token(token):
            return _error(401, "A token is needed: open the address that `sis web` printed.")
        return None


def _error(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status_code=status)
