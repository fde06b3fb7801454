"""predictor models: the models known by name, or the architecture of one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from typer import Argument, Option, Typer

from predictor.cli.common.display import digits, show, show_json, show_sheet
from predictor.values import LARGEST


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(models)


def models(
    name: Annotated[str, Argument(help="A model, or the path of a config.json; by default all of them.")] = "",
    json: Annotated[bool, Option("--json", help="Print JSON.")] = False,
) -> None:
    """List models, or show one."""
    from predictor.workloads import models as catalogue
    from predictor.workloads.models import get_model

    chosen = [get_model(name)] if name else list(catalogue().values())
    rows = [asdict(model) | {"parameters": model.parameters()} for model in chosen]
    if json:
        show_json(rows[0] if name else rows)
    elif name:
        facts = {field: str(value) for field, value in rows[0].items() if field not in ("name", "parameters")}
        show_sheet({"parameters": f"{chosen[0].parameters():,}", **facts}, chosen[0].name)
    else:
        show(
            ["model", ">parameters", ">layers", ">hidden", "attention", "experts", ">longest", "weights"],
            [
                [
                    model.name,
                    f"{digits(model.parameters() / 1e9)} B",
                    str(model.layers),
                    str(model.hidden),
                    model.attention,
                    model.experts,
                    f"{model.max_len:,}" if model.max_len < LARGEST else "any",
                    model.linear_dtype or model.expert_dtype or model.dtype,
                ]
                for model in chosen
            ],
            instead="--json",
        )
