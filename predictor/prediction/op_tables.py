"""Tables of operator calls: the columns of predictor.measurements.schema in, the same table with predictions after them
out.

Rows are not gone over one by one, but those that are wrong: the calls of one family and GPU become one Op, of which
those that occur several times are predicted once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predictor.errors import InvalidOp, InvalidRequest, InvalidSpec, PredictorError, UnsupportedDtype
from predictor.estimators.bundle import Bundle
from predictor.estimators.features import Setting
from predictor.estimators.operators import predict_op
from predictor.hardware.gpu import Gpu, resolve_gpu
from predictor.hardware.roofline import LIMITERS, roofline
from predictor.measurements.columns import Cells, Rows, halves, sound_parts, unique_rows
from predictor.measurements.schema import COLUMNS, op_type
from predictor.ops import Op
from predictor.ops.base import TEXT_FIELDS, names_of
from predictor.ops.dtypes import Array, Text
from predictor.values import one_line

TIMES = ("predicted_s", "predicted_s_low", "predicted_s_high", "bound_s")
OP_RESULTS = (*TIMES, "limiter", "basis", "bundle", "error")
OP_COLUMNS = tuple(COLUMNS)
SETTING = {"engine": "vllm", "kernel_name": "", "timing": "device"}  # what an empty cell means, as in `predictor op`
TIMINGS = ("device", "host", "warm")
OF_A_ROW = (InvalidOp, UnsupportedDtype, InvalidSpec)  # what is wrong with a call on a GPU, and not with the job
OP_ROWS = 200_000  # of a part of a job: the knots of their shapes are asked once in each
TOGETHER = 2**15  # different calls that are predicted at once
ANY_NUMBER = 2.0  # whatever field has it, the call exists


def answer_ops(table: pa.Table, bundle: Bundle) -> pa.Table:
    """The table with the columns OP_RESULTS after its own; every row as predict_op answers it alone, to the bit.

    A row that cannot be answered says in `error` what to change. Raises InvalidRequest where a column already has the
    name of a result.
    """
    if clash := [name for name in OP_RESULTS if name in table.column_names]:
        raise InvalidRequest(f"the table already has a column {clash[0]}, which is a result; rename it.")
    cells, results = Cells(table), _Answers(table.num_rows)
    everything = np.arange(table.num_rows)
    for (family, phase, gpu), rows in cells.groups(("family", "phase", "gpu"), everything):
        try:
            kind, known = op_type(_given("family", family)), resolve_gpu(_given("gpu", gpu))[0]
        except PredictorError as error:
            results.refuse(rows, str(error))
            continue
        for calls in _calls(kind, phase, cells, rows, known, results):
            _predict(calls, known, cells, bundle, results)
    return results.after(table, bundle.id)


def _given(name: str, value: str) -> str:
    if not value:
        raise InvalidRequest(f"{name} is empty; every operator has one.")
    return value


class _Answers:
    """The answers to the rows of a table, column by column, as far as they are known."""

    def __init__(self, rows: int) -> None:
        self.times = np.full((len(TIMES), rows), np.nan)
        self.limiter, self.basis = np.full(rows, -1), np.full(rows, -1)
        self.error = np.full(rows, -1)
        self.bases: dict[str, int] = {}
        self.errors: dict[str, int] = {}

    def refuse(self, rows: Rows | int, error: str) -> None:
        """Say what is wrong with rows."""
        self.error[rows] = self.errors.setdefault(one_line(error), len(self.errors))

    def answer(self, rows: Rows, times: Array, limiter: NDArray[Any], basis: str) -> None:
        """times: (4, n_rows) seconds."""
        self.times[:, rows] = times
        self.limiter[rows] = sum(at * (limiter == name) for at, name in enumerate(LIMITERS))
        self.basis[rows] = self.bases.setdefault(basis, len(self.bases))

    def after(self, table: pa.Table, bundle: str) -> pa.Table:
        """The table with these answers as columns."""
        texts = {"limiter": (self.limiter, LIMITERS), "basis": (self.basis, self.bases)}
        texts |= {"bundle": (np.where(self.basis < 0, -1, 0), (bundle,)), "error": (self.error, self.errors)}
        for name, values in zip(TIMES, self.times, strict=True):
            table = table.append_column(name, pa.array(values, from_pandas=True))
        for name, (places, names) in texts.items():
            coded = pa.array(places.astype(np.int32), mask=places < 0)
            words = pa.DictionaryArray.from_arrays(coded, pa.array(list(names), pa.string()))
            table = table.append_column(name, words.dictionary_decode())
        return table


class _Calls(NamedTuple):
    """Rows that are calls of one op, a value of each number field for each; text fields are read from the table."""

    kind: type[Op]
    phase: str
    rows: Rows
    numbers: dict[str, Array]

    def take(self, chosen: Rows | slice) -> _Calls:
        return self._replace(
            rows=self.rows[chosen], numbers={name: value[chosen] for name, value in self.numbers.items()}
        )

    def op(self, cells: Cells) -> Op:
        texts = {name: _text(cells, name, default, self.rows) for name, default in _texts_of(self.kind).items()}
        phase = {"phase": self.phase} if "phase" in names_of(self.kind) else {}
        return self.kind(**self.numbers, **texts, **phase)


def _calls(kind: type[Op], phase: str, cells: Cells, rows: Rows, gpu: Gpu, results: _Answers) -> Iterator[_Calls]:
    """The rows that are calls which exist and which the GPU can run; the others are refused."""
    groups = cells.groups((*_texts_of(kind), "timing"), rows)
    sound = [some for names, some in groups if _runs(kind, phase, names, gpu, some, results)]
    if not sound:
        return
    rows = np.sort(np.concatenate(sound))
    numbers, good = {}, np.ones(len(rows), dtype=bool)
    for field in _number_fields(kind):
        values = cells.number(field.name)[rows]
        if field.default is not MISSING:
            values = np.where(np.isnan(values), field.default, values)
        numbers[field.name] = values
        good &= kind.allowed(field.name, values)
    calls = _Calls(kind, phase, rows, numbers)
    for row in rows[~good].tolist():
        results.refuse(row, _why(kind, cells, row))
    yield from _existing(calls.take(np.flatnonzero(good)), cells, results)


def _runs(kind: type[Op], phase: str, names: tuple[str, ...], gpu: Gpu, rows: Rows, results: _Answers) -> bool:
    """Whether ops of these text fields and timing exist and run on the GPU; else the rows are refused."""
    if (timing := names[-1]) and timing not in TIMINGS:
        results.refuse(rows, f'timing is "{timing}"; it must be {", ".join(TIMINGS[:-1])} or {TIMINGS[-1]}.')
        return False
    given = {field: name or default for (field, default), name in zip(_texts_of(kind).items(), names[:-1], strict=True)}
    if "phase" in names_of(kind):
        given["phase"] = phase
    if empty := [field for field, name in given.items() if not name]:
        results.refuse(rows, f"{empty[0]} is empty; a {kind.family} row needs it.")
        return False
    try:
        roofline(kind(**given, **{field.name: ANY_NUMBER for field in _number_fields(kind)}), gpu)
    except OF_A_ROW as error:
        results.refuse(rows, str(error))
        return False
    return True


def _why(kind: type[Op], cells: Cells, row: int) -> str:
    """What is wrong with the numbers of a row that has a wrong one."""
    for field in _number_fields(kind):
        value, cell = float(cells.number(field.name)[row]), cells.cell(field.name, row)
        if np.isnan(value) and field.default is MISSING:
            return f"{field.name} is empty; a {kind.family} row needs it."
        if np.isinf(value):
            return f"{field.name} is {str(cell)[:80]!r}; it must be a number."
        if not np.isnan(value) and not kind.allowed(field.name, np.asarray(value)):
            return kind.rule(field.name, value)
    raise AssertionError(f"row {row} has no wrong number")


def _existing(calls: _Calls, cells: Cells, results: _Answers) -> Iterator[_Calls]:
    """The calls whose numbers go together, in a few pieces; the others are refused."""

    def made(places: Rows) -> _Calls:
        part = calls.take(places)
        part.op(cells)
        return part

    def refuse(places: Rows, error: PredictorError) -> None:
        results.refuse(calls.rows[places], str(error))

    if calls.rows.size:
        yield from sound_parts(np.arange(len(calls.rows)), made, refuse, OF_A_ROW)


def _predict(calls: _Calls, gpu: Gpu, cells: Cells, bundle: Bundle, results: _Answers) -> None:
    """Predict calls; those for which that fails are found by parting them, and refused."""

    def predicted(places: Rows) -> tuple[Rows, Array, NDArray[Any], str]:
        part = calls.take(places)
        return part.rows, *_predicted(part, gpu, cells, bundle)

    def refuse(places: Rows, error: PredictorError) -> None:
        results.refuse(calls.rows[places], str(error))

    def parted(places: Rows) -> Sequence[Rows]:
        rows = calls.rows[places]
        alike = cells.groups((*_texts_of(calls.kind), *SETTING), rows)
        groups = [places[np.isin(rows, some)] for _, some in alike]
        return groups if len(groups) > 1 else halves(places)

    everything = np.arange(len(calls.rows))
    for rows, times, limiter, basis in sound_parts(everything, predicted, refuse, OF_A_ROW, parted=parted):
        results.answer(rows, times, limiter, basis)


def _predicted(calls: _Calls, gpu: Gpu, cells: Cells, bundle: Bundle) -> tuple[Array, NDArray[Any], str]:
    """TIMES, (4, n_calls) seconds, limiter and basis of calls; each different one is predicted once."""
    texts = [cells.text(name).codes[calls.rows] for name in (*_texts_of(calls.kind), *SETTING)]
    first, which = unique_rows([*calls.numbers.values(), *texts], len(calls.rows))
    times, limiter, basis = np.empty((len(TIMES), len(first))), np.empty(len(first), dtype=object), ""
    for start in range(0, len(first), TOGETHER):
        some = slice(start, start + TOGETHER)
        once = calls.take(first[some])
        setting = Setting(*(_text(cells, name, default, once.rows) for name, default in SETTING.items()))
        prediction = predict_op(once.op(cells), gpu, setting, bundle)
        times[:, some] = prediction.latency_s, prediction.low_s, prediction.high_s, prediction.bound_s
        limiter[some], basis = prediction.limiter, prediction.basis
    return times[:, which], limiter[which], basis


def _text(cells: Cells, name: str, default: str, rows: Rows) -> Text:
    """A text column at rows: one name where all have the same."""
    codes, names = cells.text(name)
    own = codes[rows]
    if (own == own[0]).all():
        return names[own[0]] or default
    return np.array([name_there or default for name_there in names], dtype=object)[own]


def _texts_of(kind: type[Op]) -> dict[str, str]:
    """Text fields but the phase, with what an empty cell means, "" where it must not be empty."""
    texts = [field for field in fields(kind) if field.name in TEXT_FIELDS and field.name != "phase"]
    return {field.name: "" if field.default is MISSING else str(field.default) for field in texts}


def _number_fields(kind: type[Op]) -> list[Field[Any]]:
    return [field for field in fields(kind) if field.name not in TEXT_FIELDS]
