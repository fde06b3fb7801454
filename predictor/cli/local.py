"""predictor local: what runs on this machine, at which quantisation, how fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Option, Typer

from predictor.boosters import load_xgboost
from predictor.cli.common.display import digits, duration_interval, gigabytes, risk_of, say, show, show_json

if TYPE_CHECKING:
    from predictor.hardware.detect import Detected
    from predictor.planning.local import Local


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(local)


def local(
    model: Annotated[list[str] | None, Option(help="Model to ask about; repeat. By default those of home use.")] = None,
    gpu: Annotated[str, Option(help="GPU in place of this machine's, maybe counted: RTX-4090, 2xRTX-3090.")] = "",
    engine: Annotated[str, Option(help="Engine; by default llama.cpp.")] = "llama.cpp",
    dtype: Annotated[str, Option(help="Formats to try, the widest first: q8_0,q4_k_m.")] = "",
    input_len: Annotated[int, Option(help="Prompt tokens.")] = 1024,
    output_len: Annotated[int, Option(help="Generated tokens.")] = 256,
    bundle: Annotated[str, Option(help="Released bundle or folder of one; by default the newest.")] = "",
    json: Annotated[bool, Option("--json", help="Print a JSON array, one object per model.")] = False,
) -> None:
    """What runs on this machine, at which quantisation, how fast."""
    from predictor.planning.local import local, machine_of

    machine = machine_of(gpu)
    load_xgboost()
    formats = tuple(part.strip() for part in dtype.split(",") if part.strip())
    lengths = {"input_len": input_len, "output_len": output_len}
    found = local(machine, model or (), engine=engine, dtypes=formats, bundle=bundle, **lengths)
    if json:
        show_json([one.row | {"fits": one.fits} for one in found])
    else:
        _show(machine, found, f"{engine} · {input_len} tokens in, {output_len} out")


def _show(machine: Detected, found: list[Local], how: str) -> None:
    gpus = machine.gpu.name if machine.n_gpus == 1 else f"{machine.n_gpus} × {machine.gpu.name}"
    show(
        ["model", "format", ">GB each", ">P(OOM)", ">tokens/s", ">first token"],
        [
            [
                one.model,
                one.row["dtype"] or "as published",
                gigabytes(one.row["memory_bytes"]),
                risk_of(one.row["p_oom"]),
                f"{digits(one.row['tokens_per_s'])} ({digits(one.row['tokens_per_s_low'])}–"
                f"{digits(one.row['tokens_per_s_high'])})",
                duration_interval(*(one.row[f"ttft_s{end}"] for end in ("", "_low", "_high"))),
            ]
            for one in found
            if one.fits
        ],
        title=f"{gpus}, {gigabytes(machine.gpu.mem_bytes)} GB each · {how}",
    )
    if machine.note:
        say(f"Note: {machine.note}")
    for one in found:
        if one.row["error"]:
            say(f"{one.model}: {one.row['error']}")
        elif not one.fits:
            say(
                f"{one.model}: no room; in {one.row['dtype']} it takes {gigabytes(one.row['memory_bytes'])} GB of each."
            )
