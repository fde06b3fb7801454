"""What `predictor train` does with a run once the bundle stands: plots, and a record in MLflow."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, NamedTuple

from typer import Option

if TYPE_CHECKING:
    from predictor.learning.train import Run

TrackingUri = Annotated[
    str,
    Option(
        envvar="MLFLOW_TRACKING_URI",
        help="Where MLflow records the run; by default sqlite:///mlflow.db in this folder, its files in mlruns.",
        show_default=False,
    ),
]
Experiment = Annotated[str, Option(help="MLflow experiment of the run.")]
NoTrack = Annotated[bool, Option("--no-track", help="Do not record the run in MLflow.")]
Plots = Annotated[Path | None, Option(metavar="DIR", help="Write the plots there as PNG too (Matplotlib).")]


class Recording(NamedTuple):
    """What the options ask for. uri: "" for the local store."""

    uri: str
    experiment: str
    tracked: bool
    plots: Path | None

    def check(self) -> Recording:
        """Say before hours of training what will not work after it; returns what is left."""
        from predictor.files import needs_place
        from predictor.registry.tracking import LOCAL, missing, silence

        if self.plots:
            from predictor.plotting.canvas import needs_matplotlib

            needs_matplotlib()
            needs_place(self.plots)
        if not self.tracked:
            return self
        if reason := missing():
            _note(f"the run is not tracked: {reason}.")
            return self._replace(tracked=False)
        if self.uri and (reason := silence(self.uri)):
            _note(f"MLflow at {self.uri} does not answer: {reason}. Asked again after training, else {LOCAL} it is.")
        return self

    def record(self, run: Run) -> None:
        """Plot and track. The bundle stands by now, so that nothing here ends with an error status but --plots."""
        from predictor.learning.plots import write_plots
        from predictor.registry.tracking import track

        if self.plots:
            print(f"{len(write_plots(run, self.plots))} plots in {self.plots}")
        if not self.tracked:
            return
        with TemporaryDirectory() as scratch:
            plots = self.plots or _plotted(run, Path(scratch))
            store = track(run.bundle, run.began_s, run.ended_s, plots, self.uri, self.experiment, _note)
        if not store:
            _note("the run is not recorded; the bundle is complete.")
        elif store.startswith("http"):
            print(f"run {run.bundle.id} of experiment {self.experiment} recorded at {store}")
        else:
            print(f'run recorded in {store}; see it with: mlflow ui --backend-store-uri "{store}"')


def _plotted(run: Run, folder: Path) -> Path | None:
    from predictor.errors import PredictorError
    from predictor.learning.plots import write_plots

    try:
        write_plots(run, folder)
    except PredictorError as error:
        _note(str(error))
        return None
    return folder


def _note(text: str) -> None:
    print(f"Note: {text}", file=sys.stderr)
