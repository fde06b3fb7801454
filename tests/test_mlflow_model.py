"""The bundle as a model of MLflow: loaded, served over HTTP, registered, and as a function of Spark."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from predictor import predict_frame
from predictor.cli import main
from predictor.registry import mlflow_model
from predictor.workloads.request import columns
from predictor.workloads.results import FLAGS, RESULTS, TEXTS

mlflow = pytest.importorskip("mlflow", reason="pip install 'gpu-predictor[train]'")
REQUESTS = pd.DataFrame(
    {
        "model": "Llama-3.1-8B",
        "gpu": ["H100", "L4", "H1000", "MI300X"],
        "batch": [1, None, 2, 8],
        "dtype": ["fp8", None, None, None],
    }
)


@pytest.fixture(scope="module", autouse=True)
def no_telemetry() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "m"
    assert main(["log-model", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def expected() -> list[dict[str, Any]]:
    """Answers with the empty cells of Model.predict."""
    found = predict_frame(REQUESTS)[list(RESULTS)].to_dict("records")
    none = {**dict.fromkeys(RESULTS), **dict.fromkeys(TEXTS, ""), **dict.fromkeys(FLAGS, False)}
    return [{name: none[name] if pd.isna(cell) else cell for name, cell in row.items()} for row in found]


def test_a_loaded_model_answers_like_predict_frame(model: Path, expected: list[dict[str, Any]]) -> None:
    found = mlflow.pyfunc.load_model(str(model)).predict(REQUESTS.assign(note="dropped"))
    assert list(found.columns) == list(RESULTS) and found.astype(object).to_dict("records") == expected
    assert 'no GPU called "H1000"' in found["error"][2] and found["tpot_s"].isna().tolist() == [
        False,
        False,
        True,
        False,
    ]


def test_the_signature_asks_for_model_and_gpu_only(model: Path) -> None:
    signature = mlflow.models.get_model_info(str(model)).signature
    assert signature.inputs.input_names() == [each.name for each in columns()]
    assert signature.inputs.required_input_names() == ["model", "gpu"]
    assert tuple(signature.outputs.input_names()) == RESULTS


def test_no_pickle_and_no_code_travels(model: Path) -> None:
    flavor = mlflow.models.Model.load(str(model)).flavors["python_function"]
    assert flavor["loader_module"] == "predictor.registry.mlflow_model" and not flavor["code"]
    kinds = {file.suffix for file in model.rglob("*") if file.is_file()}
    assert kinds == {"", ".json", ".yaml", ".txt", ".ubj", ".csv", ".md"}


def test_it_is_served_over_http_as_json_that_others_can_read(model: Path, expected: list[dict[str, Any]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = ["-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local", "--port", str(port)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    serving = subprocess.Popen([sys.executable, *command], env={**os.environ, "PATH": path}, start_new_session=True)
    try:
        records = [
            {name: cell for name, cell in row.items() if not pd.isna(cell)} for row in REQUESTS.to_dict("records")
        ]
        answer = asked(serving, port, json.dumps({"dataframe_records": records}))
        assert json.loads(answer, parse_constant=pytest.fail)["predictions"] == expected
    finally:
        with suppress(ProcessLookupError):
            os.killpg(serving.pid, signal.SIGTERM)
        serving.wait(30)


def asked(server: subprocess.Popen[bytes], port: int, body: str) -> str:
    """The answer of the server, once it is up."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", body.encode(), {"Content-Type": "application/json"}
    )
    until = time.monotonic() + 90
    while True:
        try:
            with opener.open(request, timeout=60) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError:
            raise
        except OSError:
            if server.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.2)


def test_it_is_a_function_of_spark(
    model: Path, expected: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sql = pytest.importorskip("pyspark.sql", reason="pip install 'gpu-predictor[spark]'")
    if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        pytest.skip("Spark needs java, which is not installed")
    builder = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    spark = builder.config("spark.driver.host", "127.0.0.1").config("spark.sql.shuffle.partitions", "2").getOrCreate()
    try:
        cells = REQUESTS.astype(object).where(REQUESTS.notna(), None).reset_index().to_numpy().tolist()
        frame = spark.createDataFrame(cells, "id long, model string, gpu string, batch double, dtype string")
        predict = mlflow.pyfunc.spark_udf(spark, str(model), env_manager="local")
        answer = predict(sql.functions.struct("model", "gpu", "batch", "dtype")).alias("answer")
        found = frame.repartition(2).select("id", answer).orderBy("id").select("answer.*").collect()
        assert [row.asDict() for row in found] == expected
    finally:
        spark.stop()


def test_it_is_logged_and_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    before, uri = mlflow.get_tracking_uri(), f"sqlite:///{tmp_path}/mlflow.db"
    try:
        assert main(["log-model", "--tracking-uri", uri, "--name", "gpus", "--experiment", "latency"]) == 0
        assert 'model "models:/gpus/1"' in capsys.readouterr().out
        found = mlflow.pyfunc.load_model("models:/gpus/1").predict(REQUESTS[:1])
        assert found["tpot_s"].tolist() == predict_frame(REQUESTS[:1])["tpot_s"].tolist()
        named = mlflow.MlflowClient().get_experiment_by_name("latency")
        assert len(mlflow.search_runs([named.experiment_id])) == 1
        assert main(["log-model", "--tracking-uri", f"sqlite:///{tmp_path}/other.db"]) == 0  # nothing stays behind
    finally:
        mlflow.set_tracking_uri(before)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "neither out nor tracking-uri is given; give a folder or a tracking server."),
        (["--out", "x", "--name", "y"], "out is x; a folder has no name or experiment. Leave out or those away."),
        (["--out", "."], ". is there already; give a new folder."),
    ],
)
def test_what_cannot_be_is_said(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["log-model", *arguments]) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


def test_without_mlflow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(mlflow_model, "find_spec", lambda name: None)
    assert main(["log-model", "--out", "nowhere"]) == 2
    assert capsys.readouterr().err == "error: models of MLflow need mlflow; pip install 'gpu-predictor[train]'.\n"
