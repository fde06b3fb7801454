"""The command line. A command is one file with an `add` function, and one line in COMMANDS.

Only the module of the command that runs is imported, so that none waits for what others need.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from predictor.cli.common.plain_values import read_plainly
from predictor.cli.common.streams import printable, printing
from predictor.errors import PredictorError

# Name of a command, whose module is named alike, and the first sentence of its help.
COMMANDS: Mapping[str, str] = {
    "predict": "Latency, throughput and memory of a model on GPUs.",
    "memory": "Whether a run fits in memory, how surely, and what would make it fit.",
    "compare": "One question put to many GPUs: ranked, with the probability that one beats the next.",
    "plan": "Which GPUs, how many, and how they are set, to serve a load within what is promised, at the least cost.",
    "quality": "Scores of models, as lm-evaluation-harness wrote them, beside cost, latency and memory.",
    "upgrade": "Other GPUs in place of those one has: ratios of speed, room and cost over a mix of work.",
    "local": "What runs on this machine, at which quantisation, how fast.",
    "web": "The page: which GPU, how many, at what price; and the commands over HTTP (extra: web).",
    "batch": "Answer every row of a table; the columns are those of `predictor predict`. Started again, it goes on.",
    "sweep": "Predict every combination of the values in a TOML file. Started again, it goes on.",
    "disaggregated": "Serving with prefill and decode on GPUs of their own: how many workers match, and what they do.",
    "op": "Predict one operator call on GPUs.",
    "gpus": "List GPUs, show one, or check a spec file.",
    "models": "List models, or show one.",
    "prices": "What GPUs cost: dated list prices, rented by the hour or bought, and where each is from.",
    "check": "Which rows of a table obey physics, and why not.",
    "ingest": "Read measurements of operator calls, or of whole runs, into one table, and say which obey physics.",
    "train": "Make a bundle from measurement tables.",
    "calibrate": "Correct a bundle by rows measured on one's own GPU: 20 to 200 per operator, or some whole runs.",
    "bench": "Time real operators on this machine's device (extra: torch).",
    "suggest": "The shapes that, once measured on a GPU, shrink a workload's interval most per second of GPU time.",
    "evaluate": "Compare a bundle with measurements, or show what is known of its errors.",
    "monitor": "Say by family, GPU and engine version whether measurements lie in their intervals; status 1 if not.",
    "promote": "Make a bundle champion if no cell of its ledger is worse than the champion's; status 1 if not.",
    "rollback": "Go back to the champion before the last promotion, and once more to the one before that; recorded.",
    "champion": "Show the bundle that --bundle champion opens, and the decisions that led there.",
    "validate": "Replay whole models that others measured, latency and memory, and show the errors.",
    "reproduce": "Run again what a figure of README.md or docs/ comes from; status 1 where it says something else now.",
    "log-model": "Log a bundle as an MLflow model, for `mlflow models serve` and `mlflow.pyfunc.spark_udf`.",
    "grid": "Ask every GPU, model and number format in many sizes, served and trained; say which answers are not "
    "finite, lie below their bound, or are no clear error. Status 1 if any.",
    "doctor": "Show versions and bundles; say what is broken.",
}


UNUSABLE = (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENAMETOOLONG)  # by the disk


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for findings, 2 for an error of the user, 130 for Ctrl-C.

    A PredictorError, a wrong option and a standard output that takes nothing are one line on stderr. Any other
    exception is a bug and keeps its traceback.
    """
    status = 1
    with printable() as broken:
        if not broken:
            status = _run(arguments)
    return _fail(broken[0]) if any(broken) else status


def _run(arguments: Sequence[str] | None) -> int:
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        command = typer.main.get_command(_app())
        status = command(args=given or ["--help"], prog_name="predictor", standalone_mode=False)
    except KeyboardInterrupt:
        return 130
    except PredictorError as error:
        return _fail(str(error))
    except OSError as error:
        if printing(error) or (not isinstance(error, UNUSABLE) and error.errno not in REFUSED):
            raise
        return _fail(f"{error.filename or 'a file'} cannot be used ({error.strerror}); give another path.")
    except Exception as error:
        # The class of typer's own errors has moved between its releases; their message method has not.
        if not hasattr(error, "format_message"):
            raise
        return _fail(error.format_message())
    return status if isinstance(status, int) else 0


class Commands(TyperGroup):
    """All commands. Each is imported when it is asked for, which the list of them is not."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]  # names, for suggestions
        read_plainly(self)

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, from its module; None where there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        alone = _typer()
        import_module(f"{__name__}.{cmd_name.replace('-', '_')}").add(alone)
        return read_plainly(typer.main.get_command(alone).commands[cmd_name])  # type: ignore[attr-defined]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of all commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _app() -> typer.Typer:
    return _typer(cls=Commands)


def _typer(**settings: Any) -> typer.Typer:
    """A group without commands."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, **settings)
    app.callback()(_program)
    return app


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"predictor {version('gpu-predictor')}")
        raise typer.Exit


def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """How fast a model runs, and how much memory it takes, on GPUs you do not own."""


def _fail(message: str) -> int:
    with suppress(OSError):  # standard error may be as full as the output
        print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2
