"""The HTTP server inside the engine's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import sys
from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response

from engine import __version__
from engine.api.auth import OPEN_PATHS, Gate, Hosts, Tokens, is_loopback
from engine.api.docs import page
from engine.api.feed import Feed
from engine.api.guarded_http import GuardedProtocol
from engine.api.routes import (
    Engine,
    Hooks,
    Intake,
    feed_routes,
    health_routes,
    install_errors,
    list_routes,
    operator_routes,
    signal_routes,
)
from engine.api.schemas import commands
from engine.api.signatures import HookKeys, Signatures
from engine.api.strangers import Strangers
from engine.errors import ConfigError
from engine.home import Home, check_hook, hook_secret
from engine.log import register_secret
from engine.operators import Operators
from engine.stores.vault import FileVault

if TYPE_CHECKING:
    from engine.config import Config

log = logging.getLogger(__name__)

DEFAULT_HOOK: Final = "tradingview"  # its secret is there from the first start
_KEEP_ALIVE_S: Final = 75  # a producer's connection stays warm between signals
_GRACE_S: Final = 2
_BACKLOG: Final = 2048


def build_app(engine: Engine, home: Home, config: Config) -> FastAPI:
    """Return the application: every route behind the gate."""
    app = FastAPI(
        title="Volley",
        version=__version__,
        description="One signal in, every eligible account's order on the wire milliseconds later.",
        docs_url=None,  # ours below: theirs loads scripts from elsewhere
        redoc_url=None,
    )
    token = home.token()
    register_secret(token)
    for source in (DEFAULT_HOOK, *config.hooks):
        register_secret(hook_secret(home, source))
    install_errors(app)
    tokens = Tokens(token, Operators(home))
    signatures = Signatures(HookKeys(home, FileVault(home.path)), config.signals.signature_window_s)
    hooks = Hooks(partial(check_hook, home), signatures, config)
    app.include_router(signal_routes(Intake(engine, hooks)))
    app.include_router(list_routes(engine))
    app.include_router(operator_routes(engine))
    app.include_router(feed_routes(Feed(engine.publisher, tokens)))
    app.include_router(health_routes(engine))
    app.add_middleware(
        Gate, tokens=tokens, hosts=Hosts(config.engine.listen_host), strangers=Strangers()
    )
    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    """Add the bearer token to the description; the gate checks it, not FastAPI."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            components = schema["components"]
            components["schemas"] |= commands()[1]
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            for path, calls in schema["paths"].items():
                if path in OPEN_PATHS or path.startswith("/v1/hooks"):
                    continue
                for call in calls.values():
                    call["security"] = [{"token": []}]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        headers = {"content-security-policy": policy}
        return Response(page(openapi()), headers=headers, media_type="text/html")


class _Server(uvicorn.Server):
    """Uvicorn as a guest: the process's signals are not its business."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self.up.set()


class ApiServer:
    """Serves the HTTP API of one engine on ``engine.listen``, in the loop that starts it."""

    def __init__(self, engine: Engine, home: Home, config: Config) -> None:
        self._config = config
        self._app = build_app(engine, home, config)
        self._listener: socket.socket | None = None
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    def bind(self) -> socket.socket:
        """Take the address, without answering yet (``start`` does it too).

        Raises:
            ConfigError: the address cannot be bound.
        """
        if self._listener is None:
            engine = self._config.engine
            self._listener = _bind(engine.listen_host, engine.listen_port)
        return self._listener

    async def start(self) -> str:
        """Answer; return the base URL, with the port that port 0 became.

        Raises:
            ConfigError: the address cannot be bound.
        """
        listener = self.bind()
        host = self._config.engine.listen_host
        if not is_loopback(host):
            log.warning(
                "engine.listen = %s reaches beyond this machine and speaks plain HTTP; "
                "put TLS in front of it",
                self._config.engine.listen,
            )
        server = self._server = _Server(self._settings())
        self._task = asyncio.create_task(server.serve([listener]), name="api server")
        up = asyncio.create_task(server.up.wait(), name="api server up")
        try:
            await asyncio.wait({self._task, up}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
        if self._task.done():
            await self._task
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{listener.getsockname()[1]}"

    def _settings(self) -> uvicorn.Config:
        return uvicorn.Config(
            self._app,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            http=GuardedProtocol,
            ws="websockets-sansio",
            ws_max_size=64 * 1024,
            ws_per_message_deflate=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_GRACE_S,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
        )

    async def stop(self) -> None:
        """Close every connection and the listener; a second call does nothing."""
        server, task, listener = self._server, self._task, self._listener
        self._server = self._task = self._listener = None
        if server is not None and task is not None:
            server.should_exit = True
            await task
        if listener is not None:
            listener.close()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY on what it accepts; without, an answer
    # written in two pieces waits 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform == "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            reason = "another program listens there; stop it or choose another port"
        raise ConfigError(f"engine.listen = {host}:{port}: {reason}") from None
    return listener
