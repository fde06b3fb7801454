"""Jobs on loky, Dask and Ray: the same table whoever makes it, whole after a worker was killed, and clear errors."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from predictor.cli import main
from predictor.errors import InvalidRequest
from predictor.prediction.jobs import backends
from predictor.prediction.jobs.backends import BACKENDS, place_of, spread
from predictor.prediction.jobs.batch import Job, _waiting_part, run

ROWS, ROWS_PER_PART = 160, 10
GPUS = ("H100-SXM-80GB", "L4", "MI300X", "RTX-4090")
WORKER = {"loky": "popen_loky", "dask": "multiprocessing.spawn", "ray": "ray::_caught"}  # in its command line


def needs(backend: str) -> None:
    """Skips the test where the extra is not installed."""
    if package := backends.PACKAGES.get(backend):
        pytest.importorskip(package, reason=f"pip install 'gpu-predictor[{backend}]'")


@pytest.fixture(scope="module", autouse=True)
def quiet_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("table") / "in.parquet"
    numbers = range(ROWS)
    columns = {
        "id": numbers,
        "model": "Llama-3.1-8B",
        "gpu": [GPUS[i % 4] for i in numbers],
        "input_len": [100 + 31 * i for i in numbers],
    }
    pd.DataFrame(columns).to_parquet(file)
    return file


@pytest.fixture(scope="module")
def alone(table: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The answers of one process, all in one part."""
    return answers_of(table, tmp_path_factory.mktemp("alone"), n_jobs=1, rows_per_part=ROWS)


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """Address of a Dask cluster of two processes."""
    distributed = pytest.importorskip("distributed", reason="pip install 'gpu-predictor[dask]'")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster.scheduler_address


def answers_of(table: Path, folder: Path, rows_per_part: int = ROWS_PER_PART, **settings: Any) -> pd.DataFrame:
    summary = run(str(table), folder / "out", rows_per_part=rows_per_part, **settings)
    assert (summary.rows, summary.failed, summary.parts) == (ROWS, 0, ROWS // rows_per_part)
    assert not [file for file in (folder / "out").iterdir() if file.name.startswith(".")]
    return pd.concat(map(pd.read_parquet, sorted((folder / "out").glob("*.parquet"))), ignore_index=True)


def workers(backend: str) -> list[int]:
    """Process ids of the workers below this process."""
    parents, named = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if WORKER[backend] in (folder / "cmdline").read_text():
                named.append(int(folder.name))
        except OSError:  # it has ended
            continue

    def is_below(process: int) -> bool:
        above = parents.get(process, 0)
        return above == os.getpid() or (above > 1 and is_below(above))

    return [process for process in named if is_below(process)]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="workers are found in /proc")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_worker_killed_in_mid_job_takes_no_row_and_doubles_none(
    backend: str, table: Path, alone: pd.DataFrame, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    needs(backend)
    killed = []

    def kill_one(summary: Any) -> None:
        until = time.monotonic() + 20
        while summary.parts == 3 and not killed and time.monotonic() < until:
            if found := workers(backend):
                os.kill(found[-1], signal.SIGKILL)
                killed.append(found[-1])

    place = {"scheduler": request.getfixturevalue("scheduler")} if backend == "dask" else {"n_jobs": 2}
    found = answers_of(table, tmp_path, backend=backend, seen=kill_one, **place)
    assert killed and list(found["id"]) == list(range(ROWS))
    pd.testing.assert_frame_equal(found, alone)


def test_without_a_scheduler_dask_starts_one_here(table: Path, alone: pd.DataFrame, tmp_path: Path) -> None:
    needs("dask")
    pd.testing.assert_frame_equal(answers_of(table, tmp_path, 40, backend="dask", n_jobs=2), alone)


def test_a_cluster_raises_the_error_of_a_row_as_it_is(scheduler: str, tmp_path: Path) -> None:
    pd.DataFrame({"model": ["Llama-3.1-8B"], "gpu": ["H1000"]}).to_csv(tmp_path / "in.csv", index=False)
    with pytest.raises(InvalidRequest, match=r'^row 1 of part 0: no GPU called "H1000"'):
        run(str(tmp_path / "in.csv"), tmp_path / "out", backend="dask", scheduler=scheduler, strict=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_part_that_kills_every_worker_ends_the_job(backend: str) -> None:
    needs(backend)
    with pytest.raises(InvalidRequest, match=f"^workers of {backend} were lost .*finished parts are kept: start again"):
        list(spread(os._exit, iter([(1,), (1,)]), place_of(backend, 2)))


def test_calls_are_read_as_workers_become_free() -> None:
    read = []

    def naps() -> Iterator[tuple[float]]:
        for number in range(40):
            read.append(number)
            yield (0.05,)

    ahead = [len(read) - got for got, _ in enumerate(spread(time.sleep, naps(), place_of("loky", 2)))]
    assert len(ahead) == 40 and max(ahead) <= 10


def test_the_command_line_names_a_cluster(scheduler: str, table: Path, tmp_path: Path) -> None:
    where = ["--backend", "dask", "--scheduler", scheduler]
    assert (
        main(["batch", str(table), "--out", str(tmp_path / "a.csv"), "--rows-per-part", "100", "--quiet", *where]) == 0
    )
    assert len(pd.read_csv(tmp_path / "a.csv")) == ROWS
    grid = tmp_path / "grid.toml"
    grid.write_text('[request]\nmodel = "Llama-3.1-8B"\ngpu = ["H100", "L4"]\n')
    assert main(["sweep", str(grid), "--out", str(tmp_path / "b.csv"), "--quiet", *where]) == 0
    assert len(pd.read_csv(tmp_path / "b.csv")) == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"backend": "spark"}, "backend is spark; it must be one of loky, dask, ray."),
        ({"scheduler": "tcp://a:1"}, "scheduler is tcp://a:1; the backend loky has none. Set backend to dask."),
        ({"backend": "dask", "address": "a:1"}, "address is a:1; the backend dask has none. Set backend to ray."),
        (
            {"backend": "dask", "scheduler": "tcp://a:1", "n_jobs": 3},
            "jobs is 3; a scheduler uses all its workers. Leave one of the two out.",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_said_before_anything_is_written(
    settings: dict[str, Any], said: str, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: name)
    with pytest.raises(InvalidRequest) as error:
        run(str(table), tmp_path / "out", **settings)
    assert str(error.value) == said and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("backend", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_a_missing_package_is_said(backend: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(InvalidRequest) as error:
        place_of(backend)
    assert str(error.value) == f"backend {backend} needs {package}; pip install 'gpu-predictor[{backend}]'."


@pytest.mark.parametrize(("backend", "name", "form"), [("dask", "scheduler", "tcp://{}"), ("ray", "address", "{}")])
def test_a_cluster_that_is_not_there_is_said_within_seconds(backend: str, name: str, form: str) -> None:
    needs(backend)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    began = time.monotonic()
    for address, said in ((form.format(f"127.0.0.1:{port}"), "nothing answers at"), ("nowhere", "it must look like")):
        with pytest.raises(InvalidRequest, match=said):
            list(spread(abs, iter([(1,)]), place_of(backend, **{name: address})))
    assert time.monotonic() - began < 15


def test_a_worker_on_another_disk_or_of_another_version_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"does not see .*nowhere; give an --out that all workers share\."):
        _waiting_part(Job(tmp_path / "nowhere", "", False, "0"), 0, 1)
    with pytest.raises(InvalidRequest, match=r"; install 0 on all workers\."):
        _waiting_part(Job(tmp_path, "", False, "0"), 0, 1)
