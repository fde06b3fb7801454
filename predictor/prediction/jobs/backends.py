"""Where the parts of a job are made: processes of this machine (loky), a Dask cluster, a Ray cluster.

All three are backends of joblib, of which each part is one task. Dask and Ray join it by their futures: joblib's own
backend for Dask waits forever for a task that killed its workers, and Ray's gives no result before the last is there.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib.util import find_spec
from logging import ERROR
from threading import Lock
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from joblib import Parallel, cpu_count, delayed
from joblib.parallel import ParallelBackendBase

from predictor.errors import InvalidRequest

T = TypeVar("T")
LOKY, DASK, RAY = BACKENDS = ("loky", "dask", "ray")
PACKAGES = {DASK: "distributed", RAY: "ray"}
RESTARTS = 2  # of loky's processes; Dask and Ray try a task again by themselves, three times
PATIENCE_S = 10  # for a cluster to answer


class Place(NamedTuple):
    """backend: one of BACKENDS. n_jobs: workers, 0: one for each core. address: of a cluster, "": start one here."""

    backend: str = LOKY
    n_jobs: int = 0
    address: str = ""

    @property
    def is_here(self) -> bool:
        """Whether the process that asks does the work itself."""
        return self.backend == LOKY and (self.n_jobs or cpu_count()) == 1


def place_of(backend: str = LOKY, n_jobs: int = 0, scheduler: str = "", address: str = "") -> Place:
    """The place that settings name; raises InvalidRequest where they contradict each other or a package is missing."""
    if backend not in BACKENDS:
        raise InvalidRequest(f"backend is {backend}; it must be one of {', '.join(BACKENDS)}.")
    for name, value, owner in (("scheduler", scheduler, DASK), ("address", address, RAY)):
        if value and backend != owner:
            raise InvalidRequest(f"{name} is {value}; the backend {backend} has none. Set backend to {owner}.")
    if scheduler and n_jobs:
        raise InvalidRequest(f"jobs is {n_jobs}; a scheduler uses all its workers. Leave one of the two out.")
    if backend in PACKAGES and find_spec(PACKAGES[backend]) is None:
        raise InvalidRequest(f"backend {backend} needs {PACKAGES[backend]}; pip install 'gpu-predictor[{backend}]'.")
    return Place(backend, n_jobs, scheduler or address)


def spread(function: Callable[..., T], calls: Iterator[tuple[Any, ...]], place: Place) -> Iterator[T]:
    """What the function returns for each call, in the order of being done; calls are read as workers become free.

    A call whose worker died is made again, which the function must bear. Raises InvalidRequest where workers die again
    and again, or where the cluster is lost.
    """
    handed = _Handed(calls)
    deaths = 0
    with _opened(place) as (backend, n_jobs, lost):
        while handed.any_left:
            parallel = Parallel(
                n_jobs, backend=backend, return_as="generator_unordered", pre_dispatch="2*n_jobs", batch_size=1
            )
            try:
                for number, result in parallel(delayed(_numbered)(number, function, call) for number, call in handed):
                    handed.close(number)
                    yield result
            except lost as error:
                deaths += 1
                if deaths > (RESTARTS if place.backend == LOKY else 0):
                    raise InvalidRequest(
                        f"workers of {place.address or place.backend} were lost ({_told(error)}); finished parts are "
                        "kept: start again, with fewer jobs or rows per part where memory was short."
                    ) from None
            handed.again()


class _Handed(Iterator[tuple[int, tuple[Any, ...]]]):
    """Numbered calls; those without a result can be handed out again. Threads of joblib share it."""

    def __init__(self, calls: Iterator[tuple[Any, ...]]) -> None:
        self._calls = enumerate(calls)
        self._ended = False
        self._open: dict[int, tuple[Any, ...]] = {}
        self._again: list[int] = []
        self._lock = Lock()

    def __next__(self) -> tuple[int, tuple[Any, ...]]:
        with self._lock:
            if self._again:
                number = self._again.pop()
                return number, self._open[number]
            try:
                number, call = next(self._calls)
            except StopIteration:
                self._ended = True
                raise
            self._open[number] = call
            return number, call

    @property
    def any_left(self) -> bool:
        """Whether a call is without a result."""
        return not self._ended or bool(self._open)

    def close(self, number: int) -> None:
        """Its result is there."""
        with self._lock:
            del self._open[number]

    def again(self) -> None:
        """Hand out first what has no result."""
        with self._lock:
            self._again = sorted(self._open, reverse=True)


def _numbered(number: int, function: Callable[..., T], call: tuple[Any, ...]) -> tuple[int, T]:
    return number, function(*call)


def _told(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


class _Futures(ParallelBackendBase):  # type: ignore[misc]
    """A backend of joblib for whatever gives futures. submit_to: a function without arguments → its future."""

    supports_retrieve_callback = True

    def __init__(self, submit_to: Callable[[Callable[[], Any]], Any], workers: int) -> None:
        super().__init__()
        self._submit_to, self._workers = submit_to, workers

    def effective_n_jobs(self, n_jobs: int) -> int:
        """Two at least: one would make joblib do the work here."""
        return max(2, self._workers)

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], None] | None = None) -> Any:
        """Start a task."""
        future = self._submit_to(func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Any) -> Any:
        """The result of a future that is done; raises what the task raised, or what became of its worker."""
        try:
            result = out.result()
        except ImportError as error:
            raise InvalidRequest(f"a worker cannot start ({_told(error)}); install gpu-predictor there.") from None
        if isinstance(result, Exception):
            raise result
        return result


def _caught(task: Callable[[], T]) -> T | Exception:
    """What a task returns or raises; an error that is returned stays as it is, and fills nobody's log."""
    try:
        return task()
    except Exception as error:
        return error


Opened = tuple[Any, int, tuple[type[BaseException], ...]]


@contextmanager
def _opened(place: Place) -> Iterator[Opened]:
    """joblib's backend, the number of workers, and the errors that mean that workers were lost."""
    if place.backend == LOKY:
        yield LOKY, place.n_jobs or cpu_count(), (BrokenProcessPool,)
        return
    with (_dask if place.backend == DASK else _ray)(place) as opened:
        yield opened


@contextmanager
def _dask(place: Place) -> Iterator[Opened]:
    from distributed import CancelledError, Client, LocalCluster
    from distributed.comm import CommClosedError
    from distributed.scheduler import KilledWorker

    if place.address:
        cure = "start `dask scheduler` there or give another scheduler"
        _knock("scheduler", place.address, "tcp://host:8786", cure)
        cluster: Any = place.address
    else:
        n_jobs = place.n_jobs or cpu_count()
        cluster = LocalCluster(n_workers=n_jobs, threads_per_worker=1, dashboard_address=":0", silence_logs=ERROR)
    try:
        client = Client(cluster, timeout=PATIENCE_S, set_as_default=False)
    except (OSError, ValueError, MemoryError) as error:  # of what is no scheduler, too
        raise InvalidRequest(f"no Dask scheduler answers at {place.address} ({_told(error)}); {cure}.") from None
    try:
        _wait_for_a_worker(client, place.address)
        workers = sum(client.nthreads().values())
        lost = (KilledWorker, CancelledError, CommClosedError)
        yield _Futures(lambda task: client.submit(_caught, task, pure=False), workers), workers, lost
    finally:
        client.close()
        if not place.address:
            cluster.close()


def _wait_for_a_worker(client: Any, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=PATIENCE_S)
    except TimeoutError:
        raise InvalidRequest(f"{address} has no workers; start some with `dask worker {address}`.") from None


@contextmanager
def _ray(place: Place) -> Iterator[Opened]:
    import ray

    cure = "start `ray start --head` there or give another address"
    if place.address and place.address != "auto":
        _knock("address", place.address, "host:6379 or ray://host:10001", cure)
    joined = ray.is_initialized()
    if not joined:
        own: dict[str, Any] = (
            {} if place.address else {"num_cpus": place.n_jobs or cpu_count(), "include_dashboard": False}
        )
        try:
            ray.init(address=place.address or "local", log_to_driver=False, logging_level=ERROR, **own)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InvalidRequest(f"no Ray answers at {place.address} ({_told(error)}); {cure}.") from None
    try:
        remote = ray.remote(max_retries=3)(_caught)
        workers = place.n_jobs or int(ray.cluster_resources().get("CPU", 1))
        yield _Futures(lambda task: remote.remote(task).future(), workers), workers, (ray.exceptions.RayError,)
    finally:
        if not joined:
            ray.shutdown()


def _knock(name: str, address: str, form: str, cure: str) -> None:
    """Raises InvalidRequest where nobody listens at the address; the clients would try for minutes."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise InvalidRequest(f"{name} is {address}; it must look like {form}.")
    try:
        socket.create_connection((host, port), timeout=PATIENCE_S).close()
    except OSError as error:
        raise InvalidRequest(f"nothing answers at {address} ({error.strerror or error}); {cure}.") from None
