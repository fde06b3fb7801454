"""predictor sweep: all combinations of models, GPUs and settings that a TOML file names, predicted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option, Typer

from predictor.cli.batch import Address, Backend, Scheduler, run_shown
from predictor.cli.common.display import say, show
from predictor.cli.common.plot_option import Plot, say_plotted
from predictor.cli.common.prices_option import Prices
from predictor.errors import InvalidRequest

if TYPE_CHECKING:
    from predictor.prediction.jobs.sweep import Grid

ROWS_SHOWN = 10
ROWS_DRAWN = 5_000  # of a table that are read together


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(sweep)


def sweep(
    spec: Annotated[str, Argument(metavar="SPEC.toml", help="[request] of values, lists and ranges; see README.")],
    *,
    out: Annotated[str, Option(help="A .parquet or .csv file, a folder of parts, or an fsspec URL of either.")] = "",
    dry_run: Annotated[bool, Option("--dry-run", help="Say how many rows there would be, and show the first.")] = False,
    bundle: Annotated[str, Option(help="Released bundle or folder of one; by default the newest.")] = "",
    strict: Annotated[bool, Option("--strict", help="Stop at the first row that cannot be answered.")] = False,
    jobs: Annotated[int, Option(help="Processes; 0: one for each core.")] = 0,
    rows_per_part: Annotated[int, Option(help="Rows that are predicted and written together; 0: 5,000.")] = 0,
    prices: Prices = None,
    backend: Backend = "loky",
    scheduler: Scheduler = "",
    address: Address = "",
    quiet: Annotated[bool, Option("--quiet", help="No progress, no summary.")] = False,
    plot: Plot = None,
) -> None:
    """Predict every combination of the values in a TOML file. Started again, it goes on."""
    from predictor.prediction.jobs.sweep import read_spec

    grid = read_spec(spec)
    rows = _show_counts(grid, quiet and not dry_run)
    if dry_run:
        _show_first(grid)
        return
    if not out:
        raise InvalidRequest("there is no --out; give a .parquet or .csv file or a folder, or --dry-run.")
    if not rows:
        raise InvalidRequest(f"{spec} leaves no row; the rules under [[skip]] skip them all.")
    run_shown(
        grid,
        out,
        quiet,
        bundle=bundle,
        strict=strict,
        n_jobs=jobs,
        rows_per_part=rows_per_part,
        prices=prices or "",
        backend=backend,
        scheduler=scheduler,
        address=address,
    )
    if plot:
        _draw(out, plot, quiet)


def _draw(out: str, plot: Path, quiet: bool) -> None:
    from predictor.plotting import loads_picture
    from predictor.prediction.jobs.storage import source_of

    loads_picture([row for table in source_of(out).chunks(ROWS_DRAWN) for row in table.to_pylist()], plot)
    say_plotted(plot, quiet)


def _show_counts(grid: Grid, quiet: bool) -> int:
    """Print how many rows a grid has and why; returns their number."""
    skipped = grid.skipped()
    rows = grid.combinations - sum(skipped)
    if not quiet:
        axes = [f"{len(axis)} {' and '.join(axis.values)}" for axis in grid.axes if len(axis) > 1]
        say(f"{' × '.join(axes) or 'one row'} = {grid.combinations:,} combinations")
        for number, count in enumerate(skipped, 1):
            say(f"[[skip]] {number} leaves out {count:,}")
        say(f"{rows:,} rows to predict")
    return rows


def _show_first(grid: Grid) -> None:
    first = next(grid.chunks(ROWS_SHOWN), None)
    if first is None:
        return
    rows: list[dict[str, Any]] = first.to_pylist()
    show(first.column_names, [[str(cell) for cell in row.values()] for row in rows], title="the first rows")
