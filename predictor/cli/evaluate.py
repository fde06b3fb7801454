"""predictor evaluate: how far a bundle is from measurements, beside two baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option, Typer

from predictor.cli.display import percent, show
from predictor.cli.spec import Spec
from predictor.errors import InvalidRequest
from predictor.files import needs_folder, whole

if TYPE_CHECKING:
    import pandas as pd

ERRORS = {
    "mape": "error",
    "median_ape": "median",
    "p90_ape": "90th pct",
    "signed_median": "signed",
    "latency_weighted": "by latency",
    "coverage": "coverage",
    "bound_mape": "bound",
    "roofline2_mape": "roofline2",
}


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(evaluate)


def evaluate(
    table: Annotated[
        Path | None, Argument(help="Parquet or CSV file of measurements (columns: predictor.schema).")
    ] = None,
    ledger: Annotated[
        bool, Option("--ledger", help="Show the errors on held-out GPUs that came with the bundle.")
    ] = False,
    bundle: Annotated[str, Option(help="Released bundle or folder of one; by default the newest.")] = "",
    family: Annotated[str, Option(help="Only this operator family.")] = "",
    gpu: Annotated[str, Option(help="Only this GPU.")] = "",
    out: Annotated[Path | None, Option("--json", metavar="OUT.json", help="Write the cells as JSON.")] = None,
    spec: Spec = None,
) -> None:
    """Compare a bundle with measurements, or show what is known of its errors."""
    from predictor.bundle import load_bundle
    from predictor.evaluate import cells_to_json, read_ledger
    from predictor.evaluate import evaluate as cells_of

    if (table is None) != ledger:
        raise InvalidRequest("give either a table of measurements or --ledger.")
    opened = load_bundle(bundle)
    if out is not None:
        needs_folder(out, "--json")
    cells = _chosen(cells_of(table, opened) if table else read_ledger(opened), family, gpu)
    if ledger:
        _show_ledger(cells)
    else:
        _show_cells(cells)
        _show_summary(cells)
    if out is not None:
        text = json.dumps(cells_to_json(cells, opened), indent=1, allow_nan=False) + "\n"
        with whole(out) as partial:
            partial.write_text(text, encoding="utf-8")
        print(f"{len(cells)} cells in {out}")


def _chosen(cells: pd.DataFrame, family: str, gpu: str) -> pd.DataFrame:
    from predictor.gpu import get_gpu
    from predictor.guard import nearest

    if family and family not in set(cells["family"]):
        known = ", ".join(sorted(set(cells["family"])))
        raise InvalidRequest(f'family is "{family}"; the table has {known}.')
    kept = cells[cells["family"] == family] if family else cells
    if gpu:
        wanted = get_gpu(gpu).name
        names = kept["gpu"].map({name: get_gpu(name).name for name in kept["gpu"].unique()})
        if wanted not in set(names):
            near = nearest(get_gpu(gpu), tuple(sorted(set(names))))
            known = ", ".join(sorted(set(names)))
            raise InvalidRequest(f'gpu is "{gpu}"; measured are {known}; the nearest is {near}.')
        kept = kept[names == wanted]
    return kept.reset_index(drop=True)


def _show_cells(cells: pd.DataFrame) -> None:
    show(
        ["family", "phase", "GPU", "dtype", "engine", "GPU in training", ">rows", *(f">{x}" for x in ERRORS.values())],
        [
            [
                str(cell["family"]),
                str(cell["phase"]),
                str(cell["gpu"]),
                str(cell["dtype"]),
                str(cell["engine"]),
                "yes" if cell["seen"] else "no",
                f"{cell['rows']:,}",
                *(percent(cell[name]) for name in ERRORS),
            ]
            for cell in cells.to_dict("records")
        ],
    )


def _show_ledger(cells: pd.DataFrame) -> None:
    """Every protocol of the chosen cells, then their means."""
    whole = cells[cells["slice"] == "all"]
    keys = ["protocol", "estimator", "gpu", "dtype", "engine"]
    columns = [*ERRORS, "width"]
    show(
        ["held out", "operator", "GPU", "dtype", "engine", ">rows", *(f">{x}" for x in ERRORS.values()), ">width"],
        [
            [*(str(cell[key]) for key in keys), f"{cell['rows']:,}", *(percent(cell[name]) for name in columns)]
            for cell in whole.to_dict("records")
        ],
    )
    group = cells.groupby(["protocol", "slice", "estimator"])
    means = group[columns].mean().assign(rows=group["rows"].sum()).reset_index()
    show(
        ["held out", "rows of", "operator", ">rows", *(f">{x}" for x in ERRORS.values()), ">width"],
        [
            [
                *(str(line[key]) for key in ("protocol", "slice", "estimator")),
                f"{line['rows']:,}",
                *(percent(line[name]) for name in columns),
            ]
            for line in means.to_dict("records")
        ],
        title="Mean over cells",
    )


def _show_summary(cells: pd.DataFrame) -> None:
    group = cells.groupby(["family", "phase", "seen"], observed=True)
    means = group[list(ERRORS)].mean().assign(cells=group.size(), rows=group["rows"].sum())
    show(
        ["family", "phase", "GPU in training", ">cells", ">rows", *(f">{x}" for x in ERRORS.values())],
        [
            [
                str(line["family"]),
                str(line["phase"]),
                "yes" if line["seen"] else "no",
                f"{line['cells']:,}",
                f"{line['rows']:,}",
                *(percent(line[name]) for name in ERRORS),
            ]
            for line in means.reset_index().to_dict("records")
        ],
        title="Mean over cells",
    )
    print(
        "error: mean |predicted / measured - 1|; signed: median of predicted / measured - 1; by latency: sum of errors "
        "over sum of latencies;\nbound, roofline2: the mean error of the roofline bound alone and of c0 + c1 * bound."
    )
