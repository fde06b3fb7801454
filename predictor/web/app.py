"""The page and its questions as a Starlette application.

A question is a GET below /api/, its answer the JSON of the command of that name; a wrong one is 400 (the query) or 422
(what it asks), with {"error": one sentence}. Answers are kept by query; who asks the same at once waits for the same.
Nothing is fetched from elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from predictor.errors import InvalidRequest, PredictorError
from predictor.values import one_line
from predictor.web.openapi import described, described_page
from predictor.web.questions import Question, questions
from predictor.web.sent import named
from predictor.web.uploads import MOST_BYTES, Dropped, Shelf, TooLarge, dropped
from predictor.web.workers import QUICK_S, SLOW_S, Broken, GivenUp, Job, Lane, Refused, TooMany

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

STATIC = Path(__file__).parent / "static"
LONGEST_QUERY = 8000  # bytes
WAITING = 16  # questions of a lane at most
KEPT_BYTES = 32 * 2**20  # of answers
ASKED_EVERY_S = 0.2  # whether whoever asked is still there
UPLOADS = 4  # that arrive at once
UPLOAD_S = 30.0  # for one of them
SAID_BY = {"model": "models", "prices": "own_prices"}  # kind of file → what tells of it, where it has another name
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class TooSlow(PredictorError):
    """A file that does not arrive."""


STATUS: Mapping[type[Exception], int] = {
    **{TooMany: 429, TooLarge: 413, TooSlow: 408},
    **{GivenUp: 504, Refused: 422, InvalidRequest: 400},
}
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "testserver")


def create_app(bundle: str = "", workers: int = 2, hosts: Sequence[str] = LOOPBACK) -> Starlette:
    """The application. workers: processes that answer, at least two. hosts: names by which it may be asked, against
    pages elsewhere that point a name of theirs at this machine; ("*",): any.

    Raises InvalidRequest for no workers.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.gzip import GZipMiddleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    if not 2 <= workers <= 64:
        raise InvalidRequest(f"workers is {workers}; it must be from 2, one for slow questions, to 64.")
    desk = _Desk(bundle, workers)
    return Starlette(
        routes=[
            *(
                Route(f"/api/{question.name}", _asked(desk, question), methods=["GET"])
                for question in questions().values()
            ),
            *(Route(f"/api/{kind}", _taken(desk, kind), methods=["POST"]) for kind in MOST_BYTES),
            Route("/api/openapi.json", _described, methods=["GET"]),
            Route("/api/docs", _documented, methods=["GET"]),
            Route("/api/health", _healthy, methods=["GET"]),
            Mount("/", StaticFiles(directory=STATIC, html=True)),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, *hosts], www_redirect=False),
            Middleware(_Headers),
            Middleware(GZipMiddleware, minimum_size=2000),
        ],
        lifespan=desk.open,
    )


class _Headers:
    """Adds HEADERS to every response."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        await self._app(scope, receive, sent if scope["type"] == "http" else send)


class _Desk:
    """Takes questions, and hands out answers that it has."""

    def __init__(self, bundle: str, workers: int) -> None:
        self._bundle, self._workers = bundle, workers
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._working: dict[str, _Shared] = {}
        self._arriving = 0
        self.shelf = Shelf()

    @asynccontextmanager
    async def open(self, app: Starlette) -> AsyncIterator[None]:
        """Processes run while the application does, which does not wait for them; quick ones are warm first."""
        slow = max(self._workers // 4, 1)
        self._quick = Lane(self._workers - slow, self._bundle, QUICK_S, WAITING)
        self._slow = Lane(slow, self._bundle, SLOW_S, WAITING)
        warming = asyncio.create_task(self._warm())
        try:
            yield
        finally:
            warming.cancel()
            self._quick.end()
            self._slow.end()

    async def _warm(self) -> None:
        for lane in (self._quick, self._slow):
            with suppress(TimeoutError, EOFError, OSError):  # said to who asks
                await lane.ready()

    async def answer(self, question: Question, given: Mapping[str, Any]) -> bytes:
        """The answer as JSON; raises what Lane.answer does, and InvalidRequest."""
        files = tuple({name: self.shelf.get(name, kind) for name, kind in named(given)}.values())
        key = json.dumps([question.name, given], sort_keys=True, default=str)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if key not in self._working:
            lane = self._slow if question.is_slow(given) else self._quick
            self._working[key] = _Shared(lane.answer(Job(question.name, given, files)))
        shared = self._working[key]
        try:
            content = await shared.answer()
        finally:
            if shared.ended and self._working.get(key) is shared:
                del self._working[key]
        if key not in self._kept:
            self._keep(key, content)
        return content

    async def said(self, file: Dropped, question: str) -> Any:
        """What a file says, or of a model its numbers."""
        return json.loads(await self._quick.answer(Job(question, {file.kind: file.id}, (file,))))

    @contextmanager
    def arriving(self) -> Iterator[None]:
        """While a file arrives and is read, of which there are few at once; raises TooMany."""
        if self._arriving >= UPLOADS:
            raise TooMany(f"{self._arriving} files are arriving; send it again in some seconds.")
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1

    def _keep(self, key: str, content: bytes) -> None:
        self._size += len(content) - len(self._kept.pop(key, b""))
        self._kept[key] = content
        while self._size > KEPT_BYTES:
            self._size -= len(self._kept.popitem(last=False)[1])

    async def take(self, content: bytes, name: str, kind: str) -> dict[str, Any]:
        """Keep a file; raises what `dropped` does, and Refused for one that says nothing."""
        one = dropped(content, name, kind)
        said = await self.said(one, SAID_BY.get(kind, kind))
        self.shelf.put(one)
        if kind == "model":
            said = {"parameters": said["parameters"], "model": said}
        return {"id": one.id, "name": one.name, **said}


class _Shared:
    """An answer for all who ask the same at once; without any of them nobody works on."""

    def __init__(self, answer: Coroutine[Any, Any, bytes]) -> None:
        self._task = asyncio.create_task(answer)
        self._waiting = 0
        self.ended = False

    async def answer(self) -> bytes:
        self._waiting += 1
        try:
            return await asyncio.shield(self._task)
        finally:
            self._waiting -= 1
            self.ended = self._task.done() or not self._waiting
            if not self._waiting:
                self._task.cancel()


Endpoint = Callable[["Request"], Awaitable["Response"]]


def _asked(desk: _Desk, question: Question) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        async def answer() -> bytes:
            if len(request.url.query) > LONGEST_QUERY:
                raise InvalidRequest(f"the query has {len(request.url.query)} bytes; at most {LONGEST_QUERY} are read.")
            return await desk.answer(question, question.understood(request.query_params.multi_items()))

        return await _unless_gone(request, answer)

    return endpoint


def _taken(desk: _Desk, kind: str) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        async def answer() -> bytes:
            if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                raise InvalidRequest("files are taken from this page alone; open it and drop the file there.")
            with desk.arriving():
                content = await _body(request, MOST_BYTES[kind])
                return json.dumps(await desk.take(content, request.query_params.get("name", ""), kind)).encode()

        return await _replied(answer())

    return endpoint


async def _body(request: Request, most: int) -> bytes:
    """What is sent, of which no more is read than may be; raises TooLarge or TooSlow."""
    from starlette.requests import ClientDisconnect

    much = f"more than {most} bytes are sent; send a config.json, the header of a .gguf alone, or a shorter file."
    if (length := request.headers.get("content-length", "")).isdecimal() and float(length) > most:
        raise TooLarge(much)
    content = bytearray()
    try:
        async with asyncio.timeout(UPLOAD_S):
            with suppress(ClientDisconnect):
                async for part in request.stream():
                    content += part
                    if len(content) > most:
                        raise TooLarge(much)
    except TimeoutError:
        raise TooSlow(f"the file did not arrive within {UPLOAD_S:g} s; send it again.") from None
    return bytes(content)


async def _unless_gone(request: Request, answer: Callable[[], Awaitable[bytes]]) -> Response:
    """The response, for which nobody works on when whoever asked has gone."""
    working = asyncio.ensure_future(_replied(answer()))
    while not (await asyncio.wait({working}, timeout=ASKED_EVERY_S))[0]:
        if await request.is_disconnected():
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working
            return _error("whoever asked has gone.", 499)
    return working.result()


async def _replied(answer: Awaitable[bytes]) -> Response:
    try:
        return _response(await answer)
    except PredictorError as error:
        status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 422)
        return _error(one_line(error), status, getattr(error, "again_s", 0.0))
    except Broken as error:
        print(f"a question was not answered: {error}", file=sys.stderr)
        return _error(f"this was not answered, by a fault of the program ({error}); please report it.", 500)


def _error(text: str, status: int, again_s: float = 0.0) -> Response:
    response = _response(json.dumps({"error": text}), status)
    if again_s:
        response.headers["retry-after"] = str(math.ceil(again_s))
    return response


def _response(content: str | bytes, status: int = 200, kind: str = "application/json") -> Response:
    from starlette.responses import Response

    return Response(content, status, {"cache-control": "no-store"}, kind)


async def _described(request: Request) -> Response:
    return _response(json.dumps(described()))


async def _documented(request: Request) -> Response:
    return _response(described_page(), kind="text/html")


async def _healthy(request: Request) -> Response:
    return _response('{"status": "ok"}')
