"""Standard output and errors as they may be: closed, full, read by somebody who has seen enough."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

CLOSED = "standard output is closed; redirect it, to /dev/null where nobody reads it."


class Watched:
    """A stream that keeps the errors which writing to it raises, to tell them from those of other files."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.errors: list[OSError] = []

    def write(self, text: str) -> Any:
        """As the stream does."""
        return self._kept(self._stream.write, text)

    def flush(self) -> None:
        """As the stream does."""
        self._kept(self._stream.flush)

    def _kept(self, function: Any, *arguments: str) -> Any:
        try:
            return function(*arguments)
        except OSError as error:
            self.errors.append(error)
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def printing(error: OSError) -> bool:
    """Whether an error is of standard output, inside of `printable`."""
    return isinstance(sys.stdout, Watched) and any(error is one for one in sys.stdout.errors)


@contextmanager
def printable() -> Iterator[list[str]]:
    """Yields what is wrong with standard output, and takes in what goes wrong with it in the block: one sentence, ""
    where its reader has only seen enough. What is left in it is written when the block ends.
    """
    broken: list[str] = []
    if sys.stderr is None:  # closed; print would write to standard output
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # as long as the process lives
    if sys.stdout is None:
        broken.append(CLOSED)
        yield broken
        return
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot print "µ" gets "?"
    watched = Watched(sys.stdout)
    try:
        try:
            with redirect_stdout(watched):
                yield broken
        finally:
            watched.flush()
    except (OSError, SystemExit):  # of which the second is how some libraries end on a broken pipe
        if not watched.errors:
            raise
        error = watched.errors[0]
        seen_enough = isinstance(error, BrokenPipeError)  # as `head` has
        broken.append("" if seen_enough else f"standard output cannot be written ({error.strerror}); redirect it.")
        os.dup2(os.open(os.devnull, os.O_WRONLY), watched.fileno())  # what is left goes there when Python ends
