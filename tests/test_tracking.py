"""A training run in MLflow: what is recorded, and that no store, absent, wrong or silent, loses a bundle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from toy import quick_recipe, quick_table

from predictor.cli import main
from predictor.estimators.bundle import FEWSHOT, LEDGER, load_bundle
from predictor.learning.recipe import recipe_text
from predictor.learning.train import Run
from predictor.measurements.schema import write_table
from predictor.registry import tracking
from predictor.registry.tracking import record_of

pytestmark = pytest.mark.usefixtures("in_threads")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and a recipe."""
    folder = tmp_path_factory.mktemp("inputs")
    write_table(quick_table(), folder / "t.parquet")
    (folder / "r.toml").write_text(recipe_text(quick_recipe()), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def mlflow() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield pytest.importorskip("mlflow", reason="pip install 'gpu-predictor[train]'")


@pytest.fixture(scope="module")
def empty_store(mlflow: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without experiments: MLflow takes seconds to make one."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def here(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with that store."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trained(quick_run: Run, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of a training run that is over at once."""
    monkeypatch.setattr("predictor.learning.train.train_run", lambda *given, **settings: quick_run)
    return ["train", str(inputs / "t.parquet"), "--recipe", str(inputs / "r.toml"), "--out", "b"]


def recorded(client: Any, experiment: str = "gpu-predictor") -> Any:
    """The only run of a store."""
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert len(found) == 1
    return found[0]


def local(here: Path) -> Any:
    """The store of a folder."""
    import mlflow

    return mlflow.MlflowClient(f"sqlite:///{here}/mlflow.db")


def track(run: Run, uri: str = "", said: list[str] | None = None) -> str:
    say = (said if said is not None else []).append
    return tracking.track(run.bundle, run.began_s, run.ended_s, None, uri, say=say)


# What is recorded


def test_the_record_has_every_cell_setting_and_table(quick_run: Run) -> None:
    record, bundle = record_of(quick_run.bundle), quick_run.bundle
    assert {name.removeprefix("recipe.") for name in record.params if name.startswith("recipe.")} == set(
        bundle.manifest["recipe"]
    )
    table = bundle.manifest["tables"][0]
    assert (record.params["table1.sha256"], record.params["table1.accepted"]) == (
        table["sha256"],
        str(table["accepted"]),
    )
    metrics = {(metric.name, metric.step): metric.value for metric in record.metrics}
    assert len(metrics) == len(record.metrics)
    ledger = pd.read_csv(bundle.path / LEDGER)
    ledger = ledger[ledger["slice"] == "all"]
    for line in ledger.to_dict("records"):
        protocol = line["protocol"].replace(",", "")
        name = f"mape/{protocol}/gemm/{line['gpu']} bf16 vllm"
        assert metrics[name, 0] == line["mape"]
    assert metrics["summary/mape/generation-out/gemm", 0] == pytest.approx(
        ledger[ledger["protocol"] == "generation-out"].groupby("gpu")["mape"].mean().mean()
    )
    assert metrics["rmse/gemm/reference/fitted", 10] < metrics["rmse/gemm/reference/fitted", 1]


def test_a_bundle_without_curves_has_a_record(quick_run: Run, tmp_path: Path) -> None:
    old = Path(shutil.copytree(quick_run.bundle.path, tmp_path / "old"))
    (old / "curves.csv").unlink()
    (old / FEWSHOT).unlink()
    assert not [metric for metric in record_of(load_bundle(old)).metrics if metric.name.startswith(("rmse", "few"))]


def test_train_records_the_run_in_the_local_store(
    mlflow: Any, inputs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = mlflow.get_tracking_uri()
    arguments = [str(inputs / "t.parquet"), "--recipe", str(inputs / "r.toml"), "--out", "b", "--plots", "p"]
    assert main(["train", *arguments]) == 0
    said = capsys.readouterr().out
    store = "sqlite:///mlflow.db"
    assert f'run recorded in {store}; see it with: mlflow ui --backend-store-uri "{store}"' in said
    client = local(here)
    found = recorded(client)
    assert (found.info.run_name, found.info.status, found.data.tags["bundle"]) == ("quick", "FINISHED", "quick")
    assert 0 < found.info.end_time - found.info.start_time < 1000 * 600
    assert found.inputs.dataset_inputs[0].dataset.name == "t.parquet"
    assert {Path(each.path).name for each in client.list_artifacts(found.info.run_id, "bundle")} >= {
        "bundle.json",
        "curves.csv",
        "fewshot.csv",
        "ledger.csv",
    }
    plots = {Path(each.path).name for each in client.list_artifacts(found.info.run_id, "plots")}
    assert plots == {file.name for file in Path("p").iterdir()} and "importance_gemm.png" in plots
    model = found.outputs.model_outputs[0].model_id
    assert mlflow.get_tracking_uri() == before
    mlflow.set_tracking_uri(f"sqlite:///{here}/mlflow.db")
    try:
        info = mlflow.models.get_model_info(f"models:/{model}")
        assert info.signature.inputs.required_input_names() == ["model", "gpu"]
        assert info.saved_input_example_info
    finally:
        mlflow.set_tracking_uri(before)


def test_a_server_takes_the_run(mlflow: Any, quick_run: Run, here: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["-m", "mlflow", "server", "--backend-store-uri", "sqlite:///mlflow.db", "--port", str(port)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    serving = subprocess.Popen(
        [sys.executable, *command, "--workers", "1"],
        env={**os.environ, "PATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    uri = f"http://127.0.0.1:{port}"
    try:
        wait_for(serving, f"{uri}/health")
        assert tracking.silence(uri) == ""
        assert track(quick_run, uri) == uri
        found = recorded(mlflow.MlflowClient(uri))
        assert (found.info.status, len(found.outputs.model_outputs)) == ("FINISHED", 1)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(serving.pid, signal.SIGTERM)
        serving.wait(30)


def wait_for(server: subprocess.Popen[bytes], url: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + 120
    while True:
        try:
            opener.open(url, timeout=10).close()
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.2)


# Stores that fail


class Refusing(BaseHTTPRequestHandler):
    """Answers 500 to all, or takes runs until metrics come."""

    until_metrics = False

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        run = {"info": {"run_id": "1", "experiment_id": "1"}, "data": {}}
        sound = self.until_metrics and "log-batch" not in self.path
        body = json.dumps({"run": run, "experiment_id": "1"}).encode() if sound else b"full"
        self.send_response(200 if sound else 500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


class Breaking(Refusing):
    until_metrics = True


@pytest.fixture(params=[Refusing, Breaking])
def refusing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with ThreadingHTTPServer(("127.0.0.1", 0), request.param) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_what_a_server_refuses_is_recorded_here(mlflow: Any, quick_run: Run, here: Path, refusing: str) -> None:
    said: list[str] = []
    assert track(quick_run, refusing, said) == tracking.LOCAL
    assert said == [f"MLflow at {refusing} did not take the run: it answers with status 500"]
    assert recorded(local(here)).info.status == "FINISHED"


def test_a_server_that_never_answers_does_not_hold_training_up(
    mlflow: Any, quick_run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "TO_KNOCK", {**tracking.TO_KNOCK, "MLFLOW_HTTP_REQUEST_TIMEOUT": "1"})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri, said = f"http://127.0.0.1:{silent.getsockname()[1]}", []
        assert tracking.silence(uri) == "no answer in time"
        assert track(quick_run, uri, said) == tracking.LOCAL
    assert said == [f"MLflow at {uri} did not take the run: no answer in time"]


def test_a_server_that_is_not_there_is_told_of_and_the_status_is_0(
    mlflow: Any, trained: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert main([*trained, "--tracking-uri", uri]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"Note: MLflow at {uri} does not answer: connection refused. Asked again after training, "
        "else sqlite:///mlflow.db it is.",
        f"Note: MLflow at {uri} did not take the run: connection refused",
    ]
    assert recorded(local(here)).info.status == "FINISHED"


def test_a_store_that_is_no_database_leaves_the_bundle(mlflow: Any, quick_run: Run, here: Path) -> None:
    (here / "mlflow.db").write_text("no database" * 1000)
    said: list[str] = []
    assert track(quick_run, said=said) == ""
    assert len(said) == 1 and "file is not a database" in said[0]


def test_without_mlflow_the_run_is_not_tracked_and_the_extra_named(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    assert main(trained) == 0
    assert capsys.readouterr().err == (
        "Note: the run is not tracked: mlflow is not installed; pip install 'gpu-predictor[train]'.\n"
    )
    assert not list(tmp_path.iterdir())
