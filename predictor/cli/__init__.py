"""The command line. A command is one file with an `add` function, and one entry in COMMANDS."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated

import typer

from predictor.cli import (
    batch,
    bench,
    calibrate,
    champion,
    check,
    disaggregated,
    doctor,
    evaluate,
    gpus,
    ingest,
    log_model,
    memory,
    models,
    monitor,
    op,
    predict,
    promote,
    rollback,
    suggest,
    sweep,
    train,
    validate,
)
from predictor.errors import PredictorError

COMMANDS: tuple[Callable[[typer.Typer], None], ...] = (
    predict.add,
    memory.add,
    batch.add,
    sweep.add,
    disaggregated.add,
    op.add,
    gpus.add,
    models.add,
    check.add,
    ingest.add,
    train.add,
    calibrate.add,
    bench.add,
    suggest.add,
    evaluate.add,
    monitor.add,
    promote.add,
    rollback.add,
    champion.add,
    validate.add,
    log_model.add,
    doctor.add,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for findings, 2 for an error of the user, 130 for Ctrl-C.

    A PredictorError and a wrong option are one line on stderr. Any other exception is a bug and keeps its traceback.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot print "µ" gets "?"
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        command = typer.main.get_command(_app())
        status = command(args=given or ["--help"], prog_name="predictor", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except PredictorError as error:
        return _fail(str(error))
    except (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        return _fail(f"{error.filename} cannot be used ({error.strerror}); give another path.")
    except Exception as error:
        # The class of typer's own errors has moved between its releases; their message method has not.
        if not hasattr(error, "format_message"):
            raise
        return _fail(error.format_message())
    return status if isinstance(status, int) else 0


def _app() -> typer.Typer:
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback()(_program)
    for add in COMMANDS:
        add(app)
    return app


def _print_version(asked: bool) -> None:
    if asked:
        print(f"predictor {version('gpu-predictor')}")
        raise typer.Exit


def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """How fast a model runs, and how much memory it takes, on GPUs you do not own."""


def _fail(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2
