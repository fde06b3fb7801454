"""Runs the commands that README.md and docs/*.md show with their output, at 80 columns, and puts the output in.

    python docs/outputs.py [PAGE ...]      write what they print now, in all pages or in these
    python docs/outputs.py --check         status 1 where a page shows something else

In a page, `<!-- run -->` stands before a console block to run: each line after "$ " is a command, the lines below it
what it prints; a last line "…" stands for the rest. `<!-- file NAME -->` before a block makes that file first. The
commands of a page run one after another in a folder of their own. Seconds and rates are not compared.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
COLUMNS, LINES = 80, 1000
BLOCK = re.compile(r"<!-- (run|file (?P<file>\S+)) -->\n+```\w*\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
REST = "…"
# What differs from run to run: seconds, and how many of something there were in each.
PACE = re.compile(r"[\d,.]+ s \([\d,]+ a second\)")
PROGRESS = re.compile(r"rows, [\d,]+ a second")  # of a job that takes long here
PREDICTOR = 'predictor() { "$PYTHON" -c "import sys; from predictor.cli import main; sys.exit(main())" "$@"; }'


def main() -> None:
    """Refresh the pages, or say which show what is not printed any more."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE")
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if an output is out of date")
    options = parser.parse_args()
    wrong = 0
    for page in options.pages or pages():
        old, new = page.read_text(encoding="utf-8"), refreshed(page)
        if same(old, new):
            continue
        wrong += 1
        if options.check:
            print(f"{page} shows what is not printed any more; run `python docs/outputs.py`.", file=sys.stderr)
        else:
            page.write_text(new, encoding="utf-8")
            print(f"wrote {page}")
    if options.check and wrong:
        sys.exit(1)


def pages() -> list[Path]:
    """All pages that show what a command prints."""
    found = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
    return [page for page in found if "<!-- run -->" in page.read_text(encoding="utf-8")]


def same(one: str, other: str) -> bool:
    """Whether two texts of a page differ in nothing but times."""
    return PACE.sub("", one) == PACE.sub("", other)


def refreshed(page: Path) -> str:
    """The text of a page with what its commands print now."""
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        return BLOCK.sub(lambda block: _block(block, Path(folder)), text)


def _block(block: re.Match[str], folder: Path) -> str:
    text = block["text"]
    if block["file"]:
        (folder / block["file"]).write_text(text, encoding="utf-8")
        return block[0]
    lines = []
    for command, shown in _commands(text.splitlines()):
        lines += [*command, *_cut(printed("\n".join(command).removeprefix("$ "), folder), shown)]
    return block[0].replace(f"\n{text}```", "\n" + "\n".join(lines) + "\n```")


def _commands(lines: list[str]) -> Iterator[tuple[list[str], list[str]]]:
    """(lines of a command, lines that it printed) of each command of a block; a command goes on after a backslash."""
    starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        whole = lines[start:end]
        length = 1 + sum(1 for _ in takewhile(lambda line: line.endswith("\\"), whole))
        yield whole[:length], whole[length:]


def _cut(lines: list[str], shown: list[str]) -> list[str]:
    """As many lines as were shown before "…", if it was there."""
    return [*lines[: len(shown) - 1], REST] if shown and shown[-1] == REST and len(lines) >= len(shown) else lines


def printed(command: str, folder: Path) -> list[str]:
    """Lines that a command prints on a terminal of 80 columns without colours, then those of its stderr."""
    kept = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "PREDICTOR_GPUS")}
    settings = {"TERM": "dumb", "NO_COLOR": "1", "PYTHON": sys.executable, "PREDICTOR_STORE": str(folder / "store")}
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    with tempfile.TemporaryFile() as errors, os.fdopen(reader, "rb", buffering=0) as out:
        job = subprocess.Popen(
            ["bash", "-c", f"{PREDICTOR}\n{command}"],
            cwd=folder,
            env=kept | settings,
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=errors,
        )
        os.close(terminal)
        said = b"".join(_read(out.fileno()))
        job.wait()
        errors.seek(0)
        told = errors.read()
    lines = said.decode("utf-8").replace("\r\n", "\n").strip("\n").split("\n") if said.strip() else []
    lines += [line for line in told.decode("utf-8").splitlines() if not PROGRESS.search(line)]
    return [line.rstrip() for line in lines]


def _read(terminal: int) -> Iterator[bytes]:
    """What is written to a terminal until nobody has it open any more, which Linux tells by an error."""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            return
        if not piece:
            return
        yield piece


if __name__ == "__main__":
    main()
