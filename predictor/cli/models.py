"""predictor models: the models known by name, or the architecture of one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from typer import Argument, Option, Typer

from predictor.cli.common.display import digits, show, show_json, show_sheet
from predictor.values import LARGEST

MOST_PARTS = 8  # of a value that are listed


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
        facts = {field: _told(value) for field, value in rows[0].items() if field not in ("name", "parameters")}
        if facts.get("norm") == "rms_norm":  # which has none
            facts.pop("norm_bias", None)
        facts = {field: text for field, text in facts.items() if text}
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


def _told(value: Any) -> str:
    """A value in words; "" of what is not there.

    >>> _told({"heads": 32, "window": 0, "qk_norm": True, "notes": ()})
    'heads 32, qk_norm'
    """
    if isinstance(value, dict):
        told = {name: _told(part) for name, part in value.items()}
        return ", ".join(name if text == "yes" else f"{name} {text}" for name, text in told.items() if text)
    if isinstance(value, tuple | list):
        return "; ".join(map(_told, value)) if len(value) <= MOST_PARTS else f"{len(value)} of them (--json)"
    return "yes" if value is True else str(value) if value else ""
