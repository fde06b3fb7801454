"""One job at a time in a folder of parts."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from predictor.errors import InvalidRequest

LOCK, HOLDER = ".lock", ".holder"  # the system lets go of the first when its process ends, however it ends


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps other jobs out of an existing folder; raises InvalidRequest, naming the holder, where one is in it.

    Nothing is left in the folder.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InvalidRequest(
            f"{folder} is written by {_holder(folder)}; wait until it has ended or give another --out."
        ) from None
    try:
        since = datetime.now().isoformat(" ", "seconds")
        (folder / HOLDER).write_text(f"process {os.getpid()} on {socket.gethostname()} since {since}", encoding="utf-8")
        yield
    finally:
        for name in (HOLDER, LOCK):
            with suppress(OSError):  # Windows removes no file that is open
                (folder / name).unlink()
        lock.release()


def _holder(folder: Path) -> str:
    with suppress(OSError):
        return (folder / HOLDER).read_text(encoding="utf-8") or "another job"
    return "another job"
