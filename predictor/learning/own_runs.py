"""A bundle and whole runs of one's own → a bundle that corrects its answers by them.

Operators stay as they are: a run does not say which of them is off. What is learned are the errors of answers
(predictor.estimators.own_runs), which travel in the bundle with the file and date of each run.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from predictor.errors import InvalidRequest, InvalidTable
from predictor.estimators.bundle import MANIFEST, OWN_RUNS, Bundle, keep_specs, load_bundle, write_manifest
from predictor.estimators.own_runs import CONTINUOUS, Error, OwnRun, OwnRuns, setup_of, to_json
from predictor.files import copy_folder, needs_folder, sha256_of, whole_folder
from predictor.measurements.checks import ACCEPTED
from predictor.measurements.runs import MEASURED, asked_of, check, read_runs
from predictor.prediction.rows import answer_rows
from predictor.prediction.single import resolve
from predictor.workloads.request import Request
from predictor.workloads.requested import served_workload

DISTRIBUTION, RUNS_FILE = "gpu-predictor", "own_runs.json"
SIZES = ("batch", "concurrency", "request_rate", "input_len", "output_len", "length_spread")
MOSTLY = 0.5  # of a whole time, for it to be evidence of one part
ROUNDS = 2  # in which the pace of a run at a request rate is found, where times rise faster than steps


class Learned(NamedTuple):
    """bundle: with the runs. lines: of each run figure by figure what was predicted before and after, and measured."""

    bundle: Bundle
    lines: pd.DataFrame


def calibrate_by_runs(data: Path | str, bundle: Bundle, out: Path | str) -> Learned:
    """Write the bundle to folder `out`, whose answers are corrected by the runs of a table.

    Runs that it holds already stay. Raises InvalidTable where a run is rejected (a name that nobody knows, or faster
    than its bound), naming it and why, or has no prediction. The folder appears whole or not at all.
    """
    out = Path(out)
    if out.exists():
        raise InvalidRequest(f"{out} exists already; give another folder for the bundle or remove it.")
    needs_folder(out)
    rows, before = accepted(data), bundle.without_runs()
    runs = learned(rows, before, source=Path(data).name, date=_date(data))
    known = list(bundle.own_runs.runs)
    if known and bundle.own_runs.made_with != version(DISTRIBUTION):
        raise InvalidRequest(
            f"the runs of {bundle.id} are compared with answers of release {bundle.own_runs.made_with}. Calibrate a "
            "bundle without runs by all of them anew."
        )
    new = [run for run in runs if run not in known]
    if not new:
        raise InvalidTable(f"{bundle.id} holds all runs of {data} already; give others.")
    with whole_folder(out, last=MANIFEST) as folder:
        copy_folder(bundle.path, folder)
        own = OwnRuns((*known, *new), version(DISTRIBUTION))
        (folder / RUNS_FILE).write_text(to_json(own), encoding="utf-8")
        digest = sha256_of(folder / RUNS_FILE)
        gpus = dict(Counter(run.setup.gpu for run in own.runs))
        entry = {"file": RUNS_FILE, "sha256": digest, "gpus": gpus}
        manifest = {**bundle.manifest, "id": f"{before.id}+{digest[:8]}", "specs": keep_specs(gpus, folder)}
        write_manifest(manifest | {OWN_RUNS: entry}, folder)
        (folder / "README.md").unlink(missing_ok=True)
        lines = _compared(rows, before, load_bundle(folder))
    return Learned(load_bundle(out), lines)


def accepted(data: Path | str) -> pd.DataFrame:
    """The runs of a table, all of which obey physics; raises InvalidTable with the first that does not."""
    checked = check(read_runs(data))
    wrong = checked[checked["status"] != ACCEPTED]
    if len(wrong):
        status, reason = wrong.iloc[0][["status", "reason"]]
        others = f" ({len(wrong) - 1} more like it)" if len(wrong) > 1 else ""
        number = int(np.argmax(checked["status"] != ACCEPTED)) + 1
        raise InvalidTable(
            f"run {number} of {data} is {status}: {str(reason).rstrip('.')}{others}. "
            f"Correct it or leave it out; `predictor check {data}` shows all."
        )
    if checked.empty:
        raise InvalidTable(f"{data} holds no run; give one.")
    return checked


def learned(rows: pd.DataFrame, bundle: Bundle, source: str = "", date: str = "") -> list[OwnRun]:
    """The errors of a bundle's answers to accepted runs, of which each says something; raises InvalidTable."""
    asked = [asked_of(row) for row in rows.to_dict("records")]  # type: ignore[arg-type]  # names are texts
    answers = list(answer_rows(asked, bundle))
    runs = []
    pairs = zip(asked, answers, rows.to_dict("records"), strict=True)
    for number, (request, answer, row) in enumerate(pairs, start=1):
        if answer["error"]:
            raise InvalidTable(f"run {number} has no prediction: {answer['error']}")
        figures = {name.removeprefix("measured_"): row[name] for name in MEASURED if not math.isnan(row[name])}
        run = run_of(request, figures, answer, bundle.level)
        if run is None:
            raise InvalidTable(f"run {number} says nothing of speed alone; give its TTFT, TPOT or E2E.")
        if request.get("request_rate") and run.pace:
            run = _at_a_rate(run, request, bundle)
        runs.append(run._replace(source=source, date=date))
    return runs


def run_of(
    request: Mapping[str, Any], figures: Mapping[str, float], answer: Mapping[str, Any], level: float
) -> OwnRun | None:
    """The errors of one answer. figures: measured, by the name of a result; None where they say nothing.

    The pace is told by TPOT, else by the time of the whole request or by throughput where decode is most of it; a
    prompt by TTFT, else by these where the prompt is most of it. Under load all times go with the pace, and the
    prompt's error is what it has besides.
    """
    stated = Request.of(request)
    whole = [name for name in ("e2e_s", "tokens_per_s") if name != "tokens_per_s" or not stated.request_rate]
    load = stated.scheduling == CONTINUOUS
    mostly_prompt = not answer["tpot_s"] or (not load and answer["ttft_s"] > MOSTLY * answer["e2e_s"])
    pace = ["tpot_s", *([] if mostly_prompt else whole)]
    prompt = ["ttft_s", *(whole if mostly_prompt else [])]
    of_prompt, of_pace = (
        next((_error(figures[name], name, answer, level) for name in names if name in figures and answer[name]), None)
        for names in (prompt, pace)
    )
    if of_prompt is of_pace is None:
        return None
    resolved = resolve(stated)
    workload, _ = served_workload(resolved.request, resolved.model, resolved.gpu)
    setup = setup_of(workload, resolved.gpu, stated.scheduling)
    if load and of_prompt and of_pace:
        of_prompt = of_prompt._replace(log=of_prompt.log - of_pace.log)
    sizes = json.dumps({name: request[name] for name in SIZES if name in request})
    return OwnRun(setup, sizes, of_prompt, of_pace)


def _error(measured: float, name: str, answer: Mapping[str, Any], level: float) -> Error:
    """How much longer than predicted, in nats, and how doubtful that was."""
    sign = -1 if name == "tokens_per_s" else 1
    half = math.log(answer[f"{name}_high"] / answer[f"{name}_low"]) / 2
    return Error(sign * math.log(measured / answer[name]), max(half / NormalDist().inv_cdf((1 + level) / 2), 1e-3))


def _at_a_rate(run: OwnRun, request: Mapping[str, Any], bundle: Bundle) -> OwnRun:
    """The run with the error of its steps: near the rate that is held, times of requests change more than steps do."""
    assert run.pace
    plain = next(answer_rows([request], bundle))
    steps = run.pace.log
    for _ in range(ROUNDS):
        trial = run._replace(pace=run.pace._replace(log=steps))
        own = OwnRuns((trial,))
        made = own.correction(run.setup).pace.log
        tried = next(answer_rows([request], bundle.with_runs(own)))
        changed = math.log(tried["tpot_s"] / plain["tpot_s"])
        if abs(made) < 1e-6 or abs(changed) < abs(made):
            break
        steps = run.pace.log * made / changed
    return run._replace(pace=run.pace._replace(log=steps))


def _compared(rows: pd.DataFrame, before: Bundle, after: Bundle) -> pd.DataFrame:
    asked = [asked_of(row) for row in rows.to_dict("records")]  # type: ignore[arg-type]  # names are texts
    lines = []
    answers = zip(asked, rows.to_dict("records"), answer_rows(asked, before), answer_rows(asked, after), strict=True)
    for number, (request, row, one, two) in enumerate(answers, start=1):
        for column in MEASURED:
            name = column.removeprefix("measured_")
            arriving = name == "tokens_per_s" and request.get("request_rate")  # then what arrives
            if not math.isnan(row[column]) and one.get(name) and not arriving:
                about = {"run": number, "model": request["model"], "gpu": request["gpu"], "figure": name}
                lines.append(about | {"before": one[name], "after": two[name], "measured": row[column]})
    return pd.DataFrame(lines)


def _date(data: Path | str) -> str:
    return datetime.fromtimestamp(Path(data).stat().st_mtime, UTC).date().isoformat()
