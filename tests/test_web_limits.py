"""The page among many who ask, ask slowly, read slowly or send much: an answer, or 408, 413 or 429."""

import asyncio
import json
import socket
import threading
import time
from contextlib import closing

import pytest

pytest.importorskip("starlette", reason="the extra web is not installed")
pytest.importorskip("uvicorn", reason="the extra web is not installed")
pytest.importorskip("httpx2", reason="httpx2 is not installed, by which Starlette is tested")

import uvicorn

from predictor.web import app as application, connections
from predictor.web.app import KEPT_BYTES, UPLOADS
from predictor.web.questions import questions
from predictor.web.uploads import MOST_BYTES, MOST_KEPT, MOST_KEPT_BYTES, Shelf, dropped
from predictor.web.workers import Lane, TooMany

LONG_S = 20.0
LARGE = 8 * 2**20


async def large(scope, receive, send):
    """An application whose answer is larger than what the system keeps for a reader."""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(LARGE).encode())]})
    await send({"type": "http.response.body", "body": bytes(LARGE)})


@pytest.fixture
def served(monkeypatch):
    """A port where `large` is served by connections that have little patience."""
    monkeypatch.setattr(connections, "HEADERS_S", 1.0)
    monkeypatch.setattr(connections, "READ_S", 1.5)
    monkeypatch.setattr(connections, "LOOKED_EVERY_S", 0.1)
    monkeypatch.setattr(connections, "MOST", 20)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(large, http=connections.Connection, ws="none", lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join(LONG_S)


def connected(port):
    return closing(socket.create_connection(("127.0.0.1", port), timeout=LONG_S))


def answer(own):
    """All that comes until the end of a connection."""
    content = b""
    try:
        while part := own.recv(65536):
            content += part
    except ConnectionResetError:
        pass
    return content


def test_a_head_that_never_ends_is_given_up(served):
    began = time.monotonic()
    with connected(served) as own:
        own.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n")
        content = answer(own)
    assert content.startswith(b"HTTP/1.1 408 ") and time.monotonic() - began < LONG_S / 2


def test_a_head_that_drips_is_given_up_too(served):
    began = time.monotonic()
    with connected(served) as own, pytest.raises(OSError):
        while time.monotonic() - began < LONG_S:
            own.sendall(b"x")
            time.sleep(0.1)
    assert time.monotonic() - began < LONG_S / 2


def test_a_connection_that_says_nothing_is_closed(served):
    with connected(served) as own:
        assert answer(own) == b""


def test_who_asks_on_is_heard_for_long(served):
    with connected(served) as own:
        for _ in range(6):
            own.sendall(b"HEAD / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert own.recv(65536).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.4)


def test_who_does_not_read_is_cut_off(served):
    began = time.monotonic()
    with connected(served) as own:
        own.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        time.sleep(3.0)
        assert len(answer(own)) < LARGE
    assert time.monotonic() - began < LONG_S / 2


def test_there_are_only_so_many_connections(served):
    several = [socket.create_connection(("127.0.0.1", served), timeout=LONG_S) for _ in range(20)]
    time.sleep(0.2)
    with connected(served) as own:
        content = answer(own)
    for one in several:
        one.close()
    assert content.startswith(b"HTTP/1.1 429 ") and b"retry-after: 5" in content
    body = content.split(b"\r\n\r\n", 1)[1]
    assert json.loads(body)["error"] == "too many connections; ask again in some seconds."
    assert f"content-length: {len(body)}".encode() in content
    time.sleep(0.2)
    with connected(served) as own:
        own.sendall(b"HEAD / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert answer(own).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("kind", MOST_BYTES)
def test_a_file_that_is_too_large_is_not_read(client, kind):
    name = {"model": "x.gguf", "trace": "x.csv", "prices": "x.csv", "scores": "x.json"}[kind]
    whole = client.post(f"/api/{kind}?name={name}", content=b"GGUF" + bytes(MOST_BYTES[kind]))
    assert whole.status_code == 413
    read = 0

    def parts():
        nonlocal read
        for _ in range(200):
            read += 2**20
            yield bytes(2**20)

    in_parts = client.post(f"/api/{kind}?name={name}", content=parts())  # without a length
    assert in_parts.status_code == 413, in_parts.text


def test_a_file_that_does_not_arrive_is_given_up(monkeypatch):
    monkeypatch.setattr(application, "UPLOAD_S", 0.2)
    asked = {"type": "http", "method": "POST", "headers": [], "query_string": b"", "path": "/api/model"}

    async def never():
        await asyncio.sleep(LONG_S)

    from starlette.requests import Request

    with pytest.raises(application.TooSlow, match="did not arrive within"):
        asyncio.run(application._body(Request(asked, never), 100))


def test_few_files_arrive_at_once():
    desk = application._Desk("", 2)
    with desk.arriving(), desk.arriving(), desk.arriving(), desk.arriving():
        assert UPLOADS == 4
        with pytest.raises(TooMany), desk.arriving():
            pass
    with desk.arriving():
        pass


def test_files_that_are_kept_are_bounded():
    shelf, size = Shelf(), 2**20
    for number in range(2 * MOST_KEPT):
        shelf.put(dropped(b"GGUF" + bytes(size * 8), f"model{number}.gguf"))
        assert sum(len(one.content) for one in shelf._kept.values()) <= MOST_KEPT_BYTES


def test_few_files_lie_in_the_folder_of_a_process(tmp_path):
    for number in range(3 * MOST_KEPT):
        one = dropped(b"a,b", f"trace{number}.csv", "trace")
        assert (tmp_path / one.lay(tmp_path)).read_bytes() == b"a,b"
    assert len(list(tmp_path.iterdir())) == MOST_KEPT
    oldest = dropped(b"a,b", f"trace{2 * MOST_KEPT}.csv", "trace")
    oldest.lay(tmp_path)
    assert dropped(b"a,b", "another.csv", "trace").lay(tmp_path) and (tmp_path / oldest.path).is_file()


def test_answers_that_are_kept_are_bounded():
    desk = application._Desk("", 2)
    for number in range(100):
        desk._keep(str(number), bytes(2**20))
    assert sum(map(len, desk._kept.values())) == desk._size <= KEPT_BYTES


def test_who_asks_the_same_at_once_waits_for_the_same(monkeypatch):
    asked = []

    async def slowly(lane, job):
        asked.append(job)
        await asyncio.sleep(0.1)
        return b"1"

    monkeypatch.setattr(Lane, "answer", slowly)
    question, desk = questions()["models"], application._Desk("", 2)
    desk._quick = desk._slow = Lane(1, "", 60.0, 1)

    async def ask():
        some = [asyncio.create_task(desk.answer(question, {"model": "a"})) for _ in range(20)]
        await asyncio.sleep(0.02)
        some[0].cancel()  # who goes takes the answer from nobody else
        return await asyncio.gather(*some[1:], desk.answer(question, {"model": "b"}))

    assert asyncio.run(ask()) == [b"1"] * 20
    assert len(asked) == 2 and not desk._working


def test_an_answer_that_nobody_waits_for_is_given_up(monkeypatch):
    given_up = []

    async def slowly(lane, job):
        try:
            await asyncio.sleep(LONG_S)
        except asyncio.CancelledError:
            given_up.append(job)
            raise

    monkeypatch.setattr(Lane, "answer", slowly)
    desk = application._Desk("", 2)
    desk._quick = desk._slow = Lane(1, "", 60.0, 1)

    async def ask():
        some = [asyncio.create_task(desk.answer(questions()["models"], {"model": "a"})) for _ in range(3)]
        await asyncio.sleep(0.02)
        for one in some:
            one.cancel()
        await asyncio.gather(*some, return_exceptions=True)
        await asyncio.sleep(0.02)

    asyncio.run(ask())
    assert len(given_up) == 1 and not desk._working


def test_a_lane_says_when_there_may_be_room():
    lane = Lane(1, "", 60.0, 3)
    lane._asked, lane._usual_s = 4, 5.0
    with pytest.raises(TooMany) as told:
        asyncio.run(lane.answer(None))
    assert told.value.again_s == 10.0
