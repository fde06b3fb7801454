"""Gives a command an option for every column of a request."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import Field
from inspect import Parameter, Signature, signature
from typing import Annotated, Any

from typer import Option, Typer

from predictor.workloads.request import columns


def add_command(app: Typer, name: str, function: Callable[..., Any], without: Collection[str] = ()) -> None:
    """Add `function` as a command that takes its own options and, as keywords, every column of a request but model,
    gpu and those of `without`."""
    fixed = [p for p in signature(function, eval_str=True).parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
    options = [
        Parameter(
            column.name,
            Parameter.KEYWORD_ONLY,
            default=column.default,
            annotation=Annotated[_kind(column), Option(help=column.metadata["help"])],
        )
        for column in columns()
        if column.name not in ("model", "gpu", *without)
    ]
    parameters = sorted([*fixed, *options], key=lambda parameter: parameter.kind)

    def command(**given: Any) -> Any:
        return function(**given)

    command.__doc__ = function.__doc__
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(name)(command)


def stated(given: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a request among what a command was given that are not at their defaults."""
    defaults = {column.name: column.default for column in columns()}
    return {name: value for name, value in given.items() if value != defaults[name]}


def _kind(column: Field[Any]) -> Any:
    """What an option takes; one that need not be given may be None."""
    kind = column.metadata["kind"]
    return kind | None if column.default is None else kind
