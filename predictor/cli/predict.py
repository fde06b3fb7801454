"""predictor predict: TTFT, TPOT, throughput and memory of a model on each of several GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option, Typer

from predictor.cli.boosters import load_xgboost
from predictor.cli.display import (
    BASES,
    LIMITERS,
    digits,
    duration,
    duration_interval,
    gigabytes,
    percent,
    show,
    show_json,
)

if TYPE_CHECKING:
    from predictor.report import OpLine, Report


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(predict)


def predict(
    model: Annotated[str, Argument(help="Model name, hub id, or path of a config.json.")],
    gpu: Annotated[list[str], Option(help="GPU name, MIG slice (H100:3g.40gb) or a .toml file; repeat to compare.")],
    batch: Annotated[int, Option(help="Sequences that run together.")] = 1,
    input_len: Annotated[int, Option(help="Prompt tokens per sequence.")] = 1024,
    output_len: Annotated[int, Option(help="Generated tokens per sequence.")] = 128,
    dtype: Annotated[str, Option(help="Number format of the linear layers.")] = "bf16",
    kv_dtype: Annotated[str, Option(help="Number format of the KV cache; by default that of the activations.")] = "",
    tp: Annotated[int, Option(help="GPUs that share each layer.")] = 1,
    engine: Annotated[str, Option(help="vllm, sglang, trtllm or torch.")] = "vllm",
    bundle: Annotated[str, Option(help="Released bundle or folder of one; by default the newest.")] = "",
    json: Annotated[bool, Option("--json", help="Print a JSON array, one object per GPU.")] = False,
    explain: Annotated[bool, Option("--explain", help="Add every operator: time, bound, what limits it.")] = False,
) -> None:
    """Latency, throughput and memory of a model on GPUs."""
    from predictor.bundle import load_bundle
    from predictor.gpu import resolve_gpu
    from predictor.prediction import predict as report_of
    from predictor.workloads.models import get_model

    decoder = get_model(model)
    for name in gpu:
        resolve_gpu(name)  # a wrong name fails here, before the estimators load
    opened = load_bundle(bundle)
    load_xgboost()
    reports = [
        report_of(
            decoder,
            name,
            batch=batch,
            input_len=input_len,
            output_len=output_len,
            dtype=dtype,
            kv_dtype=kv_dtype,
            tp=tp,
            engine=engine,
            bundle=opened,
        )
        for name in gpu
    ]
    if json:
        show_json([_row(report, explain) for report in reports])
        return
    _show_reports(reports)
    for report in reports if explain else ():
        for phase in ("prefill", "decode"):
            _show_ops(report, phase)


def _row(report: Report, explain: bool) -> dict[str, Any]:
    row = report.to_dict()
    if explain:
        row["ops"] = [
            line._asdict()
            | {"latency_s": line.latency_s.value, "latency_s_low": line.latency_s.low}
            | {"latency_s_high": line.latency_s.high}
            for line in report.ops
        ]
    return row


def _show_reports(reports: list[Report]) -> None:
    asked, first = reports[0].workload, reports[0]
    memory = "memory" if asked.tp == 1 else "memory of each"
    show(
        ["GPU", ">TTFT", ">TPOT", ">tokens/s", f">{memory}", "fits", "limited by", "basis"],
        [
            [
                report.gpu.name if report.n_gpus == 1 else f"{report.n_gpus} × {report.gpu.name}",
                duration_interval(*report.ttft_s),
                duration_interval(*report.tpot_s),
                digits(report.tokens_per_s.value),
                f"{gigabytes(report.memory.total_bytes)} of {gigabytes(report.memory.capacity_bytes)} GB",
                "yes" if report.memory.fits else "NO",
                LIMITERS.get(report.limiter, report.limiter),
                BASES.get(report.basis, report.basis),
            ]
            for report in reports
        ],
        title=f"{asked.model.name} · {asked.dtype}, KV cache {asked.cache_dtype} · batch {asked.batch} · "
        f"{asked.input_len} tokens in, {asked.output_len} out · tp {asked.tp} · {asked.engine}",
    )
    print(f"Bundle {first.bundle}; in brackets the interval at the {first.level:.0%} level.")
    for note in dict.fromkeys(note for report in reports for note in report.notes):
        print(f"Note: {note}")


def _show_ops(report: Report, phase: str) -> None:
    lines = sorted((x for x in report.ops if x.phase == phase), key=lambda line: -line.latency_s.value)
    total = sum(line.latency_s.value for line in lines)
    what = "prefill" if phase == "prefill" else "one decode step, half-way"
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
