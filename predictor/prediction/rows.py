"""Many requests at once: those that differ in batch and lengths only are answered as columns, by equal arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from predictor.errors import InvalidRequest, PredictorError
from predictor.estimators.bundle import Bundle
from predictor.latency.report import Report
from predictor.latency.steps import extrapolations_by_row, op_lines_of_many
from predictor.latency.training import TrainingReport
from predictor.measurements.columns import cells_of
from predictor.memory.closed_form import memory, start_note
from predictor.prediction.single import Resolved, ServingTask, resolve, serving_report, serving_task, training_report
from predictor.values import one_line
from predictor.workloads.cells import is_empty
from predictor.workloads.request import Request, columns
from predictor.workloads.requested import served_workload
from predictor.workloads.results import BETWEEN_NOTES, BOTH, FLAGS, RESULTS, TEXTS
from predictor.workloads.workload import SIZES, Workload

Cells = dict[str, np.ndarray[Any, Any]]  # result → (n_rows,) values, None where there is none

ROWS = 5000  # requests that are answered together: a second of work, some MB of memory
FEWEST_ALIKE = 4  # requests that are worth a column
LOADS = 64  # simulated rows whose step times are predicted together
ALIKE = tuple(name for name in Workload.__dataclass_fields__ if name not in (*SIZES, "model"))


class _Row(NamedTuple):
    """A request to serve, and the number of its row."""

    number: int
    resolved: Resolved
    workload: Workload
    note: str


def answer_row(row: Mapping[str, Any], bundle: Bundle) -> dict[str, Any]:
    """The row with the columns of RESULTS after its own, which come back unchanged and in order.

    What cannot be answered is said in `error`, and the other results are None. A column that already has the name of a
    result raises InvalidRequest, but n_gpus: that is asked and answered, stays where it is, and is filled in where a
    cell is empty.
    """
    return next(answer_rows([row], bundle))


def answer_rows(rows: Sequence[Mapping[str, Any]], bundle: Bundle) -> Iterator[dict[str, Any]]:
    """`answer_row` of many, in order."""
    results = answer_columns(rows, bundle)
    for row, *cells in zip(rows, *results.values(), strict=True):
        answer = {**row, **dict(zip(results, cells, strict=True))}
        if not is_empty(row.get(BOTH)):
            answer[BOTH] = row[BOTH]
        yield answer


def answer_columns(rows: Sequence[Mapping[str, Any]], bundle: Bundle) -> dict[str, list[Any]]:
    """The columns of RESULTS of many rows, each as if it were alone, to the bit."""
    if rows:
        check_columns(rows[0])
    cells = {name: np.full(len(rows), None, dtype=object) for name in RESULTS}
    to_serve = []
    for number, row in enumerate(rows):
        begun = _attempt(_begun, number, row, bundle)
        if isinstance(begun, _Row):
            to_serve.append(begun)
        else:
            _write(cells, [number], begun)
    left = _settle(cells, _units(to_serve), bundle)
    _settle(cells, [[row] for row in left], bundle)
    return {name: column.tolist() for name, column in cells.items()}


def check_columns(names: Collection[str]) -> None:
    """Raises InvalidRequest where a column of a table already has the name of a result."""
    if clash := [name for name in RESULTS if name in names and name != BOTH]:
        raise InvalidRequest(f"the table already has a column {clash[0]}, which is a result; rename it.")


def _begun(number: int, row: Mapping[str, Any], bundle: Bundle) -> _Row | TrainingReport:
    """What a row asks to serve; of training the report, for which each row is predicted on its own."""
    resolved = resolve(Request.of(row))
    if resolved.request.phase == "train":
        return training_report(resolved, bundle)
    return _Row(number, resolved, *served_workload(resolved.request, resolved.model, resolved.gpu))


def _units(to_serve: Sequence[_Row]) -> list[list[_Row]]:
    """Rows that may be one column together, all others one by one."""
    alike: dict[tuple[Any, ...], list[_Row]] = {}
    for row in to_serve:
        workload, resolved = row.workload, row.resolved
        apart = (row.number,) if _is_load(resolved) or not workload.in_columns else ()
        settings = (getattr(workload, name) for name in ALIKE)
        key = (id(workload.model), id(resolved.gpu), resolved.price_usd, *settings, *apart)
        alike.setdefault(key, []).append(row)
    units: list[list[_Row]] = []
    for members in alike.values():
        units += [members] if len(members) >= FEWEST_ALIKE else [[row] for row in members]
    return units


def _settle(cells: Cells, units: Sequence[Sequence[_Row]], bundle: Bundle) -> list[_Row]:
    """Fill in the answers of all; the members of columns that have none come back, to be asked one by one."""
    left: list[_Row] = []
    for members, answer in zip(units, _answers(units, bundle), strict=True):
        if isinstance(answer, PredictorError) and len(members) > 1:
            left += members
        else:
            _fill(cells, members, answer)
    return left


def _answers(units: Sequence[Sequence[_Row]], bundle: Bundle) -> Iterator[Report | PredictorError]:
    """The report of each unit, or the error that it ends with; all their operators are predicted together."""
    tasks = [_attempt(_task, members) for members in units]
    lines = iter(op_lines_of_many([task.steps for task in tasks if isinstance(task, ServingTask)], bundle))
    for number, task in enumerate(tasks):
        if number % LOADS == 0:
            _foresee(tasks[number : number + LOADS], bundle)
        predicted = next(lines) if isinstance(task, ServingTask) else task
        yield predicted if isinstance(predicted, PredictorError) else _attempt(serving_report, task, predicted, bundle)


def _foresee(tasks: Sequence[ServingTask | PredictorError], bundle: Bundle) -> None:
    """Predict the step times of all loads together; each finds its own when it is simulated."""
    loads = [task for task in tasks if isinstance(task, ServingTask) and _is_load(task.resolved)]
    if len(loads) > 1:
        from predictor.latency.serving.step_times import foresee

        foresee([(task.workload, task.resolved.gpu) for task in loads], bundle)


def _is_load(resolved: Resolved) -> bool:
    return resolved.request.scheduling == "continuous"


def _task(members: Sequence[_Row]) -> ServingTask:
    first = members[0]
    column = Workload.column([row.workload for row in members]) if len(members) > 1 else first.workload
    return serving_task(first.resolved, column, first.note)


def _fill(cells: Cells, members: Sequence[_Row], answer: Report | PredictorError) -> None:
    """Write an answer into the rows of all that it is of."""
    numbers = [row.number for row in members]
    _write(cells, numbers, answer)
    if len(members) > 1 and isinstance(answer, Report):
        for number, notes in zip(numbers, _notes(members, answer), strict=True):
            cells["notes"][number] = BETWEEN_NOTES.join(notes) or None


def _write(cells: Cells, numbers: Sequence[int], answer: Report | TrainingReport | PredictorError) -> None:
    """Write an answer into rows; notes are those of the first."""
    told: dict[str, Any] = {"error": one_line(answer)} if isinstance(answer, PredictorError) else answer.to_dict()
    told["notes"] = BETWEEN_NOTES.join(told.get("notes", ())) or None
    rows: Any = numbers if len(numbers) > 1 else numbers[0]
    for name, column in cells.items():
        if name in told:
            column[rows] = told[name]


def _notes(members: Sequence[_Row], report: Report) -> Iterator[list[str]]:
    """What the report of a column notes of each row: of its own names, of all, and of its own sizes."""
    shared, need = report.notes[len(_own_notes(members[0])) :], report.memory
    short = np.broadcast_to(~np.asarray(need.starts) | (np.asarray(need.p_wait) >= 0.5), len(members))
    for row, beyond, told in zip(members, extrapolations_by_row(report.ops, len(members)), short, strict=True):
        yield [*_own_notes(row), *(_start_note(row) if told else ()), *shared, *beyond]


def _start_note(row: _Row) -> list[str]:
    """What one row says of an engine that does not start, or has no room for all sequences at once."""
    gpu = row.resolved.gpu
    note = start_note(row.workload, gpu, memory(row.workload, gpu))
    return [note] if note else []


def _own_notes(row: _Row) -> list[str]:
    return [text for text in (*row.resolved.notes, row.note) if text]


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns, or the error that names what is wrong with a row."""
    try:
        return function(*arguments)
    except PredictorError as error:
        return error


def answer_table(table: pa.Table, bundle: Bundle) -> pa.Table:
    """The table with the columns of RESULTS after its own; see answer_row.

    Only the columns of a request are looked at: all others stay whatever they are.
    """
    check_columns(table.column_names)
    return with_results(table, answer_columns(requests_of(table), bundle))


def with_results(table: pa.Table, results: Mapping[str, Sequence[Any]]) -> pa.Table:
    """The table with these results after its own columns."""
    for name in RESULTS:
        kind = pa.string() if name in TEXTS else pa.bool_() if name in FLAGS else pa.float64()
        column = pa.array(results[name], pa.int64() if name == BOTH else kind)
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, filled(table[name], column))
        else:
            table = table.append_column(name, column)
    return table


def filled(own: pa.ChunkedArray, answers: pa.Array) -> pa.ChunkedArray | pa.Array:
    """A column of the table, its empty cells filled in; it keeps its type but where all of it is empty."""
    if pa.types.is_null(own.type):
        return answers
    try:
        return pc.if_else(
            pa.array([is_empty(cell) for cell in own.to_pylist()], pa.bool_()), answers.cast(own.type), own
        )
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # of lists and other things that are no numbers
        return own


def requests_of(table: pa.Table) -> list[dict[str, Any]]:
    """The rows, as far as they are a request's."""
    names = [column.name for column in columns() if column.name in table.column_names]
    if twice := [name for name in names if table.column_names.count(name) > 1]:
        raise InvalidRequest(f"the table has two columns {twice[0]}; drop one.")
    return requests_from({name: list(cells_of(table[name])) for name in names}, table.num_rows)


def requests_from(cells: Mapping[str, Sequence[Any]], count: int) -> list[dict[str, Any]]:
    """`count` rows from the cells of their columns."""
    return [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)] if cells else [{}] * count
