"""The application on a port of this machine."""

from __future__ import annotations

import ipaddress
import socket

from predictor.errors import InvalidRequest
from predictor.web.app import create_app

LOOPBACK = "127.0.0.1"


def serve(host: str = LOOPBACK, port: int = 8000, bundle: str = "", workers: int = 2) -> None:
    """Serve the page until Ctrl-C. host: by default this machine alone reaches it.

    Raises InvalidRequest for a port that cannot be had.
    """
    import uvicorn

    from predictor.web.connections import Connection

    if not 0 <= port < 2**16:
        raise InvalidRequest(f"port is {port}; it must be from 0 to 65535.")
    app = create_app(bundle, workers, hosts=(host,) if is_loopback(host) else ("*",))
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError:
        raise InvalidRequest(f"port {port} of {host} cannot be had; give another --port.") from None
    name, number = listening.getsockname()[:2]
    print(f"http://{f'[{name}]' if ':' in name else name}:{number}", flush=True)
    uvicorn.Server(config).run(sockets=[listening])


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
