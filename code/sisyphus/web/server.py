"""Serves the page of a graph until Ctrl-C, or until the manager that started it ends."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from dataclasses import dataclass

import uvicorn

from sisyphus import global_settings as gs
from sisyphus.errors import OptionError
from sisyphus.web.access import Access, is_loopback, make_token, names_of_machine
from sisyphus.web.app import Page, plotly_script


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where to listen, and who may ask."""

    host: str = "127.0.0.1"
    port: int = 8675
    """0: any free one."""
    names: tuple[str, ...] = ()
    """Further names of the machine, as it is seen from outside, e.g. behind a proxy."""
    token: bool = False
    """Ask for a token also where the page only shows and is only reached from this machine."""
    wait_for_port: bool = False
    """If the port is taken, try again until it is free."""
    end_with_stdin: bool = False
    """End when whoever holds the other end of stdin does."""


def serve(page: Page, address: Address, *, control: bool = False) -> None:
    """Serve a page.

    Args:
        page: what is shown.
        address: where.
        control: whether it can act; then a token is needed in any case.

    Raises:
        OptionError: the port is taken, or the address is none of this machine.
        SisyphusError: Plotly's script is not there.
    """
    plotly_script()
    token = make_token() if control or address.token or not is_loopback(address.host) else None
    access = Access(names_of_machine(address.host) | {name.lower() for name in address.names}, token)
    listener = _listen(address)
    config = uvicorn.Config(
        page.application(access),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
        ws="none",
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    server = uvicorn.Server(config)
    logging.info("The page: %s", _url(listener, token))
    if address.end_with_stdin:
        threading.Thread(target=_stop_with_stdin, args=(server,), daemon=True).start()
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()


def _listen(address: Address) -> socket.socket:
    warned = False
    while True:
        try:
            family, kind, protocol, _, place = socket.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.socket(family, kind, protocol)
        except (OSError, OverflowError) as error:
            raise OptionError(f"cannot listen on {address.host}, port {address.port}: {error}") from error
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(128)
            return listener
        except OSError as error:
            listener.close()
            text = f"cannot listen on {address.host}, port {address.port}: {error.strerror}"
            if not address.wait_for_port:
                raise OptionError(f"{text}. Another one: --port N, or 0 for any free one.") from error
            if not warned:
                logging.warning("The page: %s. I try again.", text)
                warned = True
        time.sleep(gs.WAIT_PERIOD_HTTP_RETRY_BIND)


def _url(listener: socket.socket, token: str | None) -> str:
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    if ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{port}/" + (f"?token={token}" if token else "")


def _stop_with_stdin(server: uvicorn.Server) -> None:
    while os.read(0, 4096):
        pass
    server.should_exit = True
