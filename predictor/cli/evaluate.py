"""predictor evaluate: how far a bundle is from measurements, beside two baselines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option, Typer

from predictor.cli.common.display import (
    percent,
    say,
    show,
)
from predictor.cli.common.plot_option import Plot, say_plotted
from predictor.cli.common.spec import Spec
from predictor.errors import InvalidRequest
from predictor.files import needs_folder, whole_file

if TYPE_CHECKING:
    import pandas as pd

    from predictor.estimators.bundle import Bundle

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

FIGURES = {
    "ttft_s": "TTFT",
    "ttft_p99_s": "TTFT p99",
    "tpot_s": "TPOT",
    "tpot_p99_s": "TPOT p99",
    "e2e_s": "E2E",
    "tokens_per_s": "tokens/s",
}


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(evaluate)


def evaluate(
    table: Annotated[
        Path | None,
        Argument(help="Parquet or CSV of measured operator calls, or of whole runs."),
    ] = None,
    ledger: Annotated[
        bool, Option("--ledger", help="Show the errors on held-out GPUs that came with the bundle.")
    ] = False,
    bundle: Annotated[str, Option(help="Released bundle or folder of one; by default the newest.")] = "",
    family: Annotated[str, Option(help="Only this operator family.")] = "",
    gpu: Annotated[str, Option(help="Only this GPU.")] = "",
    out: Annotated[Path | None, Option("--json", metavar="OUT.json", help="Write the cells as JSON.")] = None,
    plot: Plot = None,
    spec: Spec = None,
) -> None:
    """Compare a bundle with measurements, or show what is known of its errors."""
    from predictor.estimators.bundle import load_bundle
    from predictor.learning.evaluate import cells_to_json, evaluate as cells_of, read_ledger
    from predictor.measurements.runs import holds_runs

    if (table is None) != ledger:
        raise InvalidRequest("give either a table of measurements or --ledger.")
    opened = load_bundle(bundle)
    if out is not None:
        needs_folder(out, "--json")
    if table is not None and holds_runs(table):
        cells = _run_errors(table, opened, family, gpu)
        if plot:
            _draw(cells, "figure", f"{opened.id} beside {table.name}", opened, plot)
        return _write(cells_to_json(cells, opened), out)
    cells = _chosen(cells_of(table, opened) if table else read_ledger(opened), family, gpu)
    if ledger:
        _show_ledger(cells)
    else:
        _show_cells(cells)
        _show_summary(cells)
    if plot:
        of = "errors on what was held out" if ledger else f"beside {table.name if table else ''}"
        _draw(
            cells[cells["slice"] == "all"] if ledger else cells,
            "estimator" if ledger else "family",
            f"{opened.id}: {of}",
            opened,
            plot,
        )
    _write(cells_to_json(cells, opened), out)


def _draw(cells: pd.DataFrame, columns: str, title: str, bundle: Bundle, plot: Path) -> None:
    from predictor.plotting import errors_picture

    errors_picture(cells, columns, title, bundle.id, plot)
    say_plotted(plot)


def _write(errors: dict[str, Any], out: Path | None) -> None:
    if out is not None:
        with whole_file(out) as draft:
            draft.write_text(json.dumps(errors, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        say(f"{len(errors['cells'])} cells in {out}")


def _run_errors(table: Path, bundle: Bundle, family: str, gpu: str) -> pd.DataFrame:
    """Print the errors of whole runs, and what of them is not predicted."""
    from predictor.learning.evaluate_runs import FOLLOWS, run_errors

    if family:
        raise InvalidRequest(f'family is "{family}"; {table} holds whole runs. Leave it out.')
    errors, unpredicted = run_errors(table, bundle)
    for why, count in unpredicted.most_common():
        what = "not counted" if why == FOLLOWS else "not predicted"
        print(f"{what}, {count:,} run{'s' * (count > 1)}: {why}", file=sys.stderr)
    errors = _of_gpu(errors, gpu) if gpu else errors
    show(
        ["model", "GPU", "engine", "figure", ">runs", ">error", ">signed", ">in interval"],
        [
            [
                *(str(cell[name]) for name in ("model", "gpu", "engine")),
                FIGURES[cell["figure"]],
                f"{cell['rows']:,}",
                *(percent(cell[name]) for name in ("mape", "signed_median", "coverage")),
            ]
            for cell in errors.to_dict("records")
        ],
        keys=4,
        title=f"{table} against bundle {bundle.id}, whose intervals are at the {bundle.level:.0%} level",
    )
    return errors


def _chosen(cells: pd.DataFrame, family: str, gpu: str) -> pd.DataFrame:
    if family and family not in set(cells["family"]):
        known = ", ".join(sorted(set(cells["family"])))
        raise InvalidRequest(f'family is "{family}"; the table has {known}.')
    kept = cells[cells["family"] == family] if family else cells
    return (_of_gpu(kept, gpu) if gpu else kept).reset_index(drop=True)


def _of_gpu(cells: pd.DataFrame, gpu: str) -> pd.DataFrame:
    """The cells of one GPU, whatever it is called in them."""
    from predictor.estimators.extrapolation import nearest
    from predictor.hardware.gpu import get_gpu

    wanted = get_gpu(gpu).name
    names = cells["gpu"].map({name: get_gpu(name).name for name in cells["gpu"].unique()})
    if wanted not in set(names):
        near = nearest(get_gpu(gpu), tuple(sorted(set(names))))
        known = ", ".join(sorted(set(names)))
        raise InvalidRequest(f'gpu is "{gpu}"; measured are {known}; the nearest is {near}.')
    return cells[names == wanted]


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
        keys=5,
        instead="--out",
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
        keys=5,
        instead="--out",
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
        keys=3,
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
        keys=3,
    )
    say(
        "error: mean |predicted / measured - 1|; signed: median of predicted / measured - 1; by latency: sum of errors "
        "over sum of latencies;\nbound, roofline2: the mean error of the roofline bound alone and of c0 + c1 * bound."
    )
