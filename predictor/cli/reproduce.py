"""predictor reproduce: runs again what a figure of README.md or docs/ comes from."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option, Typer

from predictor.cli.common.display import say, show
from predictor.cli.common.measured_option import SOURCES, TRUTH, Sources, Truth
from predictor.errors import InvalidRequest

if TYPE_CHECKING:
    from predictor.estimators.bundle import Bundle
    from predictor.learning.validation.claims import Claim, Errors

ROOT = Path(__file__).resolve().parents[2]  # of a clone
PREDICTOR = [sys.executable, "-c", "import sys; from predictor.cli import main; sys.exit(main())"]


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(reproduce)


def reproduce(
    names: Annotated[list[str] | None, Argument(metavar="[NAME]...", help="By default all are listed.")] = None,
    truth: Truth = TRUTH,
    sources: Sources = SOURCES,
    bundle: Annotated[str, Option(help="Released bundle or folder of one; by default the newest.")] = "",
) -> int:
    """Run again what a figure of README.md or docs/ comes from; status 1 where it says something else now.

    Without a name all are listed, each with its page, its command and what that needs.
    """
    from predictor.learning.validation.claims import claims, get_claim

    if not names:
        _list(list(claims().values()))
        return 0
    wanted = [get_claim(name) for name in names]
    return max([_again(claim, truth, sources, bundle) for claim in wanted])


def _list(claims: list[Claim]) -> None:
    columns = ["name", "what", "needs", ">minutes"]
    show(columns, [[one.name, one.says, one.needs or "–", f"{one.minutes:g}"] for one in claims])
    say(
        "truth: the published tables (--truth); sources: clones of the upstream repositories (--sources); "
        "clone: this project's repository. docs/reproduce.md has pages and commands."
    )


def _again(claim: Claim, truth: Path, sources: Path, bundle: str) -> int:
    """Run one; its exit status."""
    if claim.lines:
        from predictor.estimators.bundle import load_bundle

        return _compared(claim, truth, sources, load_bundle(bundle))
    if "clone" in claim.needs and not (ROOT / "pyproject.toml").is_file():
        raise InvalidRequest(f"{claim.name} runs scripts of the repository, which {ROOT} is none; run it in a clone.")
    status = 0
    for line in claim.run:
        say(f"$ {line}")
        sys.stdout.flush()
        first, *rest = shlex.split(line)
        command = {"predictor": PREDICTOR, "python": [sys.executable]}.get(first, [first])
        status = max(status, subprocess.run([*command, *rest], cwd=ROOT, check=False).returncode)
    return status


def _compared(claim: Claim, truth: Path, sources: Path, bundle: Bundle) -> int:
    """Show what is printed beside what comes out now; 1 where they differ."""
    for line in claim.run:
        say(f"$ {line}")
    try:
        rows = claim.replayed(truth, sources, bundle)
    except FileNotFoundError as error:
        raise InvalidRequest(f"{error.filename or error} is not there; give --truth and --sources.") from error
    now = [line.now(rows) for line in claim.lines]
    same = [line.errors.same_as(errors) for line, errors in zip(claim.lines, now, strict=True)]
    lines = [
        [line.label, _text(line.errors), _text(errors), "" if alike else "differs"]
        for line, errors, alike in zip(claim.lines, now, same, strict=True)
    ]
    show([claim.where, "printed", "now", ""], lines)
    say("rows; per cent: median and mean of the absolute error; share in the interval")
    return 0 if all(same) else 1


def _text(errors: Errors) -> str:
    return f"{errors.rows}; {errors.median:.1f} / {errors.mean:.1f}; {errors.within:.0f}"
