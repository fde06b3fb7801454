"""predictor op: one operator call on each of several GPUs. Options are the fields of the op's class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option, Typer
from typer.core import TyperGroup

from predictor.boosters import load_xgboost
from predictor.cli.common.comparison import end, show_refusals
from predictor.cli.common.display import (
    BASES,
    digits,
    duration,
    duration_interval,
    percent,
    show,
    show_json,
    show_notes,
)
from predictor.cli.common.plain_values import read_plainly
from predictor.errors import InvalidRequest
from predictor.prediction.refusals import Refusal

if TYPE_CHECKING:
    from predictor.ops import Op


class Families(TyperGroup):
    """One command per operator family, made when it is asked for: `predictor --help` needs none of them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all families."""
        return list(_families())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a family, None where there is no such family."""
        kind = _families().get(cmd_name)
        if kind is None:
            raise InvalidRequest(f'family is "{cmd_name}"; it must be one of {", ".join(_families())}.')
        app = Typer(add_completion=False, rich_markup_mode=None)
        app.command(name=cmd_name, help=_explanation(kind), short_help=_first_line(kind))(_command(kind))
        return read_plainly(typer.main.get_command(app))


def add(app: Typer) -> None:
    """Add the command."""
    group = Typer(cls=Families, rich_markup_mode=None)
    group.callback()(_group)
    app.add_typer(group, name="op")


def _group() -> None:
    """Predict one operator call on GPUs."""


def _families() -> Mapping[str, type[Op]]:
    from predictor.ops import FAMILIES

    return {kind.family: kind for kind in FAMILIES}


def _first_line(kind: type[Op]) -> str:
    return (inspect.getdoc(kind) or kind.family).split("\n\n")[0].split(". ")[0].replace("\n", " ")


def _explanation(kind: type[Op]) -> str:
    """The class's docstring without its worked example."""
    return (inspect.getdoc(kind) or kind.family).split("\n\n>>>")[0]


def _command(kind: type[Op]) -> Callable[..., None]:
    """A function with one keyword per field of the op, which is how typer learns the options."""

    def run(**given: Any) -> None:
        _predict(kind, **given)

    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, annotation=a, default=d) for n, a, d in _options(kind)]
    )
    run.__annotations__ = {name: annotation for name, annotation, _ in _options(kind)}
    return run


def _options(kind: type[Op]) -> list[tuple[str, Any, Any]]:
    """(name, annotation, default) of every option of a family's command."""
    from predictor.ops.base import TEXT_FIELDS
    from predictor.workloads.engine_tables import SERVES, measured_engines

    options: list[tuple[str, Any, Any]] = []
    for field in fields(kind):
        flag = "--" + field.name.replace("_", "-")
        needed = field.default is MISSING
        shown = (
            "required"
            if needed
            else f"by default {field.default if field.name in TEXT_FIELDS else f'{field.default:g}'}"
        )
        option = Option(flag, help=shown, show_default=False)
        base: Any = str if field.name in TEXT_FIELDS else float
        options.append((field.name, Annotated[base | None, option], None))
    gpu = Option("--gpu", help="GPU name, MIG slice or .toml file; repeat to compare.")
    engine = Option("--engine", help=f"Who runs it: {', '.join(measured_engines())} …")
    return [
        *options,
        ("gpu", Annotated[list[str], gpu], inspect.Parameter.empty),
        ("engine", Annotated[str, engine], SERVES),
        ("bundle", Annotated[str, Option("--bundle", help="Released bundle or folder of one.")], ""),
        ("json", Annotated[bool, Option("--json", help="Print a JSON array, one object per GPU.")], False),
    ]


def _predict(kind: type[Op], /, *, gpu: list[str], engine: str, bundle: str, json: bool, **given: Any) -> None:
    from predictor.estimators.bundle import load_bundle
    from predictor.latency.report import shape_of
    from predictor.prediction.op_calls import op_of, op_rows

    op = op_of(kind, given)
    load_xgboost()
    answers = op_rows(op, gpu, engine, load_bundle(bundle))
    if json:
        show_json([row.row(family=kind.family) if isinstance(row, Refusal) else row for row in answers])
    else:
        _show(answers, f"{kind.family} {shape_of(op)} · {engine}")
    end(answers)


def _show(answers: Sequence[dict[str, Any] | Refusal], title: str) -> None:
    rows = [row for row in answers if not isinstance(row, Refusal)]
    show(
        ["GPU", ">latency", ">bound", ">utilization", "limited by", ">TFLOP/s", ">GB/s", "basis"],
        [
            [
                row["gpu"],
                duration_interval(row["latency_s"], row["latency_s_low"], row["latency_s_high"]),
                duration(row["bound_s"]),
                percent(row["utilization"]),
                row["limiter"],
                digits(row["flop_per_s"] / 1e12),
                digits(row["bytes_per_s"] / 1e9),
                BASES.get(row["basis"], row["basis"])
                + (f", {duration(row['uncalibrated_s'])} without" if "uncalibrated_s" in row else ""),
            ]
            for row in rows
        ],
        title=title,
    )
    show_refusals(answers)
    show_notes(note for row in rows for note in row["notes"])
