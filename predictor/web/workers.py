"""Processes that answer questions, so that the page stays alive while one of them computes.

There are two lanes: questions that take seconds wait for each other and for no quick one. A process that takes too
long, dies, or works for nobody any more is ended and replaced.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from predictor.errors import PredictorError
from predictor.hardware.prices import OWN_PRICES
from predictor.values import one_line
from predictor.web.sent import laid
from predictor.web.uploads import Dropped

SPAWN = get_context("spawn")  # a fork would take the server's threads along
QUICK_S, SLOW_S = 60.0, 180.0  # seconds after which a question is given up
STARTS_S = 120.0
# Cures that need a file or a program of the server, and what helps those who ask it.
CURES = {
    "The path of a config.json works too.": "Or drop its config.json.",
    " To ask the hub: pip install 'gpu-predictor[hub]'.": "",
    "Or describe your own in a .toml file.": 'Or change one, such as "H100, mem_gib=96".',
    "with --as FILE=MODEL:DTYPE": "beside the file (as=ID=MODEL:DTYPE)",
    "another --task": "another task",
}


class TooMany(PredictorError):
    """More questions than can wait. again_s: seconds after which there may be room."""

    def __init__(self, text: str, again_s: float = 5.0) -> None:
        super().__init__(text)
        self.again_s = again_s


class GivenUp(PredictorError):
    """A question that takes too long."""


class Broken(Exception):
    """An answer that failed by a bug; its traceback is on the standard error of the server."""


class Refused(PredictorError):
    """What a question says that cannot be answered; the message is that of the library."""


class Job(NamedTuple):
    """A question as a process gets it. files: those whose ids it names."""

    question: str
    given: Mapping[str, Any]
    files: tuple[Dropped, ...] = ()


class Lane:
    """Processes that take questions in turn.

    seconds: for an answer at most. waiting: questions at most that wait.
    """

    def __init__(self, processes: int, bundle: str, seconds: float, waiting: int) -> None:
        self._idle: asyncio.LifoQueue[_Process] = asyncio.LifoQueue()  # the warmest first
        self._all = [_Process(bundle) for _ in range(processes)]
        self._seconds, self._most, self._asked = seconds, waiting + processes, 0
        self._usual_s = 1.0  # of an answer
        for process in self._all:
            self._idle.put_nowait(process)

    async def ready(self) -> None:
        """Return when all processes have started."""
        await asyncio.gather(*(process.started() for process in self._all))

    async def answer(self, job: Job) -> bytes:
        """The answer as JSON. Raises TooMany, GivenUp, Refused or Broken."""
        if self._asked >= self._most:
            again_s = min(max(self._asked * self._usual_s / len(self._all) / 2, 1.0), 60.0)  # when half are answered
            raise TooMany(f"{self._asked} questions are being answered; ask again in some seconds.", again_s)
        self._asked += 1
        try:
            process = await self._idle.get()
            began = time.monotonic()
            try:
                return await process.answer(job, self._seconds)
            finally:
                self._idle.put_nowait(process)
                self._usual_s += 0.1 * (time.monotonic() - began - self._usual_s)
        finally:
            self._asked -= 1

    def end(self) -> None:
        """End all processes."""
        for process in self._all:
            process.end()


class _Process:
    """One process, started when it is first needed, and again where it was ended."""

    def __init__(self, bundle: str) -> None:
        self._bundle = bundle
        self._warming: asyncio.Task[tuple[str, bytes]] | None = None

    def _start(self) -> asyncio.Task[tuple[str, bytes]]:
        self._pipe, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_work, args=(theirs, self._bundle), daemon=True)
        self._process.start()
        theirs.close()
        self._warming = asyncio.create_task(self._take(STARTS_S))
        return self._warming

    def end(self) -> None:
        if self._warming:
            self._warming.cancel()
            self._process.terminate()
            self._process.join(5)

    def _again(self) -> None:
        """A new process in place of this one; what waits for the old one's answer gets the end of its pipe."""
        self._process.terminate()
        self._start()

    async def started(self) -> None:
        """Return when it is warm; who waits for that may go."""
        await asyncio.shield(self._warming or self._start())

    async def answer(self, job: Job, seconds: float) -> bytes:
        await self._warmed()
        try:
            self._pipe.send(job)
            kind, content = await self._take(seconds)
        except TimeoutError:
            self._again()
            raise GivenUp(f"no answer within {seconds:g} s; ask about fewer GPUs or a shorter run.") from None
        except (EOFError, OSError) as error:
            self._again()
            raise Broken("its process ended") from error
        except asyncio.CancelledError:
            self._again()
            raise
        if kind == "refused":
            raise Refused(content.decode())
        if kind == "broken":
            raise Broken(content.decode())
        return content

    async def _warmed(self) -> None:
        try:
            await self.started()
        except (TimeoutError, EOFError, OSError) as error:
            self._again()
            raise Broken("its process did not start") from error

    async def _take(self, seconds: float) -> tuple[str, bytes]:
        """The next message; raises TimeoutError, or EOFError where the process ended."""
        arriving = asyncio.create_task(asyncio.to_thread(self._pipe.recv))
        arriving.add_done_callback(lambda task: task.cancelled() or task.exception())  # when nobody waits any more
        done, _ = await asyncio.wait({arriving}, timeout=seconds)
        if not done:
            raise TimeoutError
        message: tuple[str, bytes] = arriving.result()
        return message


def _work(pipe: Connection, bundle: str) -> None:
    """What a process does: it answers one question after another, in a folder without files."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # the page asks nobody else
    from predictor.web.answers import answered, opened

    with tempfile.TemporaryDirectory() as folder, suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        os.chdir(folder)
        try:
            estimators = opened(bundle)
            pipe.send(("ready", b""))
            while True:
                job: Job = pipe.recv()
                pipe.send(_answer(job, estimators, Path(folder), answered))
        finally:
            os.chdir("/")  # Windows removes no folder that is in use


def _answer(job: Job, bundle: Any, folder: Path, answered: Any) -> tuple[str, bytes]:
    try:
        given = laid(job.given, {file.id: file.lay(folder) for file in job.files})
        with _priced(given.pop("prices", "")):
            found = answered(job.question, given, bundle)
        return "answer", _by_name(json.dumps(found, allow_nan=False, default=_plain), job).encode()
    except PredictorError as error:
        return "refused", _by_name(_for_readers(one_line(error)), job).encode()
    except Exception as error:  # a bug: said to the one who runs the server, and not to the one who asks
        traceback.print_exc(file=sys.stderr)
        return "broken", type(error).__name__.encode()


@contextmanager
def _priced(path: str) -> Iterator[None]:
    """Prices of whoever asks, in place of those that the server was told to add to the shipped ones."""
    before = os.environ.get(OWN_PRICES)
    if path:
        os.environ[OWN_PRICES] = path
    try:
        yield
    finally:
        if path:
            os.environ.pop(OWN_PRICES)
            os.environ.update({OWN_PRICES: before} if before is not None else {})


def _by_name(text: str, job: Job) -> str:
    """Files by the names that they have where they are from."""
    for file in job.files:
        if file.kind != "model":
            text = text.replace(file.path, file.name).replace(file.path.removeprefix("./"), file.name)
    return text


def _for_readers(text: str) -> str:
    """What an error says to those who have no files on this machine."""
    for of_files, instead in CURES.items():
        text = text.replace(of_files, instead)
    return text


def _plain(value: Any) -> Any:
    """Numbers of NumPy as Python's own."""
    return value.item()
