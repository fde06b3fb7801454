"""predictor predict: TTFT, TPOT, throughput and memory of a model on each of several GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option, Typer

from predictor.boosters import load_xgboost
from predictor.cli.common.display import (
    BASES,
    LIMITERS,
    digits,
    duration,
    duration_interval,
    gigabytes,
    layout_text,
    percent,
    risk,
    show,
    show_json,
)
from predictor.cli.common.request_options import add_command
from predictor.workloads.request import Request

if TYPE_CHECKING:
    from predictor.latency.report import OpLine, Report
    from predictor.latency.training import TrainingReport
    from predictor.workloads import Workload


TRAINING_TIMES = ("GPU", ">step", ">tokens/s", ">MFU", ">forward", ">backward", ">optimizer", ">exposed")


def add(app: Typer) -> None:
    """Add the command, with an option for every column of a request."""
    add_command(app, "predict", _predict)


def _predict(
    model: Annotated[str, Argument(help="Model name, hub id, or path of a config.json.")],
    *,
    gpu: Annotated[list[str], Option(help="GPU name, MIG slice (H100:3g.40gb) or a .toml file; repeat to compare.")],
    bundle: Annotated[str, Option(help="Released bundle or folder of one; by default the newest.")] = "",
    json: Annotated[bool, Option("--json", help="Print a JSON array, one object per GPU.")] = False,
    explain: Annotated[bool, Option("--explain", help="Add every operator: time, bound, what limits it.")] = False,
    **settings: Any,
) -> None:
    """Latency, throughput and memory of a model on GPUs."""
    from predictor.estimators.bundle import load_bundle
    from predictor.prediction.single import answer, resolve
    from predictor.workloads.models import get_model

    network = get_model(model)
    # A wrong name fails here, before the estimators load.
    requests = [resolve(Request(model=model, gpu=name, **settings), network) for name in gpu]
    opened = load_bundle(bundle)
    load_xgboost()
    reports = [answer(request, opened) for request in requests]
    before = opened.uncalibrated()
    earlier = [
        answer(request, before) if report.gpu.name in opened.calibrated else None
        for request, report in zip(requests, reports, strict=True)
    ]
    if json:
        rows = [_row(report, explain) for report in reports]
        for row, uncalibrated in zip(rows, earlier, strict=True):
            if uncalibrated:
                row["uncalibrated"] = _row(uncalibrated, explain)
        show_json(rows)
        return
    _show_reports(reports)
    if any(earlier):
        print("without the calibration:")
        _show_reports([report for report in earlier if report])
    print(f"Bundle {opened.id}; in brackets the interval at the {opened.level:.0%} level.")
    for note in dict.fromkeys(note for report in reports for note in report.notes):
        print(f"Note: {note}")
    if any(not report.memory.fits for report in reports):
        print("Note: `predictor memory` with the same options says what would make it fit.")
    for report in reports if explain else ():
        for phase in dict.fromkeys(line.phase for line in report.ops):
            _show_ops(report, phase)


def _show_reports(reports: Sequence[Report | TrainingReport]) -> None:
    from predictor.latency.report import Report
    from predictor.latency.training import TrainingReport

    serving = [report for report in reports if isinstance(report, Report)]
    training = [report for report in reports if isinstance(report, TrainingReport)]
    if serving:
        _show_serving(serving)
    if training:
        _show_training(training)


def _row(report: Report | TrainingReport, explain: bool) -> dict[str, Any]:
    row = report.to_dict()
    if explain:
        row["ops"] = [line.row() for line in report.ops]
    return row


def _show_serving(reports: list[Report]) -> None:
    asked = reports[0].workload
    memory = "memory" if reports[0].n_gpus == 1 else "memory of each"
    show(
        ["GPU", ">TTFT", ">TPOT", ">tokens/s", f">{memory}", "P(OOM)", "limited by", "basis"],
        [
            [
                _gpus(report),
                duration_interval(*report.ttft_s),
                duration_interval(*report.tpot_s) if report.workload.generates else "–",
                digits(report.tokens_per_s.value),
                f"{gigabytes(report.memory.total_bytes)} of {gigabytes(report.memory.capacity_bytes)} GB",
                risk(report.memory),
                LIMITERS.get(report.limiter, report.limiter),
                BASES.get(report.basis, report.basis),
            ]
            for report in reports
        ],
        title=f"{asked.model.name} · {_dtypes(asked)} · {_load(reports[0])} · "
        f"{_lengths(asked)} · {layout_text(asked.layout)} · {asked.engine}",
    )


def _show_training(reports: list[TrainingReport]) -> None:
    setting = reports[0].step.setting
    show(
        [*TRAINING_TIMES, ">memory of each", "P(OOM)", "limited by", "basis"],
        [
            [
                _gpus(report),
                duration_interval(*report.step_s),
                digits(report.tokens_per_s.value),
                percent(report.mfu),
                duration(report.step.forward_s),
                duration(report.step.backward_s),
                duration(report.step.optimizer_s),
                duration(report.step.communication_s + report.step.bubble_s),
                f"{gigabytes(report.memory.total_bytes)} of {gigabytes(report.memory.capacity_bytes)} GB",
                risk(report.memory),
                LIMITERS.get(report.limiter, report.limiter),
                BASES.get(report.basis, report.basis),
            ]
            for report in reports
        ],
        title=f"{reports[0].model} · {setting.method}, {setting.dtype}, {setting.optimizer} · "
        f"{setting.grad_accum} × {setting.micro_batch} × {setting.seq_len} tokens · checkpointing "
        f"{setting.checkpointing} · ZeRO {setting.zero_stage} · tp {setting.tp}, pp {setting.pp}, dp {setting.dp}",
    )


def _gpus(report: Report | TrainingReport) -> str:
    return report.gpu.name if report.n_gpus == 1 else f"{report.n_gpus} × {report.gpu.name}"


def _load(report: Report) -> str:
    """ "batch 8", "8 clients" or "10 requests/s"."""
    asked = report.request
    if asked is None or asked.scheduling == "static":
        return f"batch {report.workload.batch}"
    return f"{asked.request_rate:g} requests/s" if asked.request_rate else f"{asked.batch} clients"


def _lengths(asked: Workload) -> str:
    if image := getattr(asked.model, "image", 0):
        return f"{image} × {image} pixels"
    return f"{asked.input_len} tokens in" + (f", {asked.output_len} out" if asked.generates else "")


def _dtypes(asked: Workload) -> str:
    experts = asked.expert_dtype if asked.model.experts else ""
    weights = f"{asked.dtype}, experts {experts}" if experts not in ("", asked.dtype) else asked.dtype
    return f"{weights}, KV cache {asked.cache_dtype}" if asked.generates else weights


def _show_ops(report: Report | TrainingReport, phase: str) -> None:
    lines = sorted((x for x in report.ops if x.phase == phase), key=lambda line: -line.latency_s.value)
    total = sum(line.latency_s.value for line in lines)
    what = "one decode step, half-way" if phase == "decode" else phase
    show(
        ["op", "shape", ">calls", ">time", ">share", ">bound", ">utilization", "limited by", "basis"],
        [_op_row(line, total) for line in lines],
        title=f"{report.gpu.name} · {what} · {duration(total)}",
    )


def _op_row(line: OpLine, total: float) -> list[str]:
    return [
        line.name,
        line.shape,
        f"{line.count:,.0f}",
        duration(line.latency_s.value),
        percent(line.latency_s.value / total),
        duration(line.bound_s),
        percent(line.bound_s / line.latency_s.value),
        line.limiter,
        BASES.get(line.basis, line.basis),
    ]
