"""predictor predict: TTFT, TPOT, throughput and memory of a model on each of several GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option, Typer

from predictor.boosters import load_xgboost
from predictor.cli.common.comparison import end, show_refusals
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
    say,
    show,
    show_json,
    show_notes,
)
from predictor.cli.common.plot_option import Plot, say_plotted
from predictor.cli.common.prices_option import Prices
from predictor.cli.common.request_options import add_command
from predictor.prediction.refusals import Refusal
from predictor.workloads.architectures.single_pass import IMAGES
from predictor.workloads.engines import Settings
from predictor.workloads.request import LOADS, UNDER_LOAD, Request

if TYPE_CHECKING:
    from predictor.estimators.bundle import Bundle
    from predictor.hardware.gpu import Gpu
    from predictor.latency.explain import Other
    from predictor.latency.report import OpLine, Report
    from predictor.latency.serving.load import Serving
    from predictor.latency.training import TrainingReport
    from predictor.latency.whole_run import WholeRun
    from predictor.prediction.several import Pair
    from predictor.workloads import Workload
    from predictor.workloads.passes.training import TrainingSetting


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
    prices: Prices = None,
    plot: Plot = None,
    **settings: Any,
) -> None:
    """Latency, throughput and memory of a model on GPUs."""
    from predictor.estimators.bundle import load_bundle
    from predictor.hardware.prices import own_prices
    from predictor.prediction.several import report_row, reports
    from predictor.prediction.single import resolve
    from predictor.workloads.models import get_model

    if plot:
        from predictor.plotting.answers import check_gpus

        check_gpus(len(gpu))
    network = get_model(model)
    with own_prices(prices or ""):
        # A wrong name fails here, before the estimators load.
        requests = [resolve(Request(model=model, gpu=name, **settings), network) for name in gpu]
        opened = load_bundle(bundle)
        load_xgboost()
        answers = reports(requests, opened)
    if json:
        show_json([report_row(pair, network.name, opened, explain) for pair in answers])
    else:
        _show_answers([pair for pair in answers if not isinstance(pair, Refusal)], answers, opened, explain)
    if plot:
        from predictor.plotting import answers_picture

        answers_picture([pair[0] for pair in answers if not isinstance(pair, Refusal)], opened, plot)
        say_plotted(plot, json)
    end(answers)


def _show_answers(pairs: Sequence[Pair], answers: Sequence[Pair | Refusal], bundle: Bundle, explain: bool) -> None:
    reports = [report for report, _ in pairs]
    _show_reports(reports)
    show_refusals(answers)
    for report in reports:
        if served := getattr(report, "served", None):
            say(_of_load(report, served))
    if earlier := [uncalibrated for _, uncalibrated in pairs if uncalibrated]:
        print("without the calibration:")
        _show_reports(earlier)
    say(f"Bundle {bundle.id}; in brackets the interval at the {bundle.level:.0%} level.")
    show_notes(_notes(reports))
    if any(not report.memory.fits for report in reports):
        show_notes(["`predictor memory` with the same options says what would make it fit."])
    for report in reports if explain else ():
        _show_parts(report, bundle)


def _notes(reports: Sequence[Report | TrainingReport]) -> Iterator[str]:
    """What reports note, each note once; one of some GPUs alone says of which."""
    of_gpus: dict[str, dict[str, None]] = {}
    for report in reports:
        for note in report.notes:
            of_gpus.setdefault(note, {})[report.gpu.name] = None
    all_gpus = {report.gpu.name for report in reports}
    for note, names in of_gpus.items():
        whose = names.keys() == all_gpus or any(name in note for name in names)
        yield note if whose else f"{', '.join(names)}: {note}"


def _show_reports(reports: Sequence[Report | TrainingReport]) -> None:
    from predictor.latency.report import Report
    from predictor.latency.training import TrainingReport

    serving = [report for report in reports if isinstance(report, Report)]
    training = [report for report in reports if isinstance(report, TrainingReport)]
    if serving:
        _show_serving(serving)
    if training:
        _show_training(training)


def _show_serving(reports: list[Report]) -> None:
    workload = reports[0].workload
    memory = "memory" if reports[0].n_gpus == 1 else "memory of each"
    speed = [f">{name}" for name in _speed(reports[0])]
    show(
        ["GPU", *speed, f">{memory}", "P(OOM)", "limited by", "basis"],
        [
            [
                _gpus(report),
                *_speed(report).values(),
                f"{gigabytes(report.memory.total_bytes)} of {gigabytes(report.memory.capacity_bytes)} GB",
                risk(report.memory),
                LIMITERS.get(report.limiter, report.limiter),
                BASES.get(report.basis, report.basis),
            ]
            for report in reports
        ],
        title=f"{workload.model.name} · {_dtypes(workload)} · {_load(reports[0])} · {_lengths(workload)} · "
        f"{layout_text(workload.layout)} · {_links(workload)}{workload.engine}{_settings(reports[0])}",
    )


def _speed(report: Report) -> dict[str, str]:
    """Times and rates by their names, which depend on what a model takes and gives."""
    workload, tokens = report.workload, {"tokens/s": digits(report.tokens_per_s.value)}
    if workload.generates:
        return {"TTFT": duration_interval(*report.ttft_s), "TPOT": duration_interval(*report.tpot_s), **tokens}
    inputs = {f"{workload.inputs}/s": digits(workload.batch / report.e2e_s.value)}
    return {"latency": duration_interval(*report.e2e_s), **inputs, **(tokens if workload.inputs != IMAGES else {})}


def _links(workload: Workload) -> str:
    """What is stated of what joins the GPUs."""
    stated = {"over": workload.link, "between nodes": workload.node_link}
    return "".join(f"{where} {link} · " for where, link in stated.items() if link)


def _settings(report: Report) -> str:
    """What is stated of the engine and of how requests share their tokens."""
    if report.request is None:
        return ""
    names = (
        *Settings._fields,
        "ubatch",
        "kv_block",
        "beam_width",
        *(name for name in UNDER_LOAD if name not in (*LOADS, "length_spread")),
    )
    return "".join(f" · {name} {f'{value}'.lower()}" for name, value in report.request.stated(names).items())


def _show_training(reports: list[TrainingReport]) -> None:
    setting = reports[0].step.setting
    whole = [">whole training", ">price", ">energy"] if reports[0].whole else []
    show(
        [*TRAINING_TIMES, *whole, ">memory of each", "P(OOM)", "limited by", "basis"],
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
                *_whole(report.whole),
                f"{gigabytes(report.memory.total_bytes)} of {gigabytes(report.memory.capacity_bytes)} GB",
                risk(report.memory),
                LIMITERS.get(report.limiter, report.limiter),
                BASES.get(report.basis, report.basis),
            ]
            for report in reports
        ],
        title=f"{reports[0].model} · {setting.method}, {setting.dtype}, {setting.optimizer} · "
        f"{setting.grad_accum} × {setting.micro_batch} × {_sequence(setting)} tokens · checkpointing "
        f"{setting.checkpointing} · ZeRO {setting.zero_stage} · {_layout(setting)}",
    )
    for source in dict.fromkeys(report.price_source for report in reports if report.whole):
        if source:
            say(f"price of {source}.")


def _sequence(setting: TrainingSetting) -> str:
    """Tokens of a row, and of a sequence in the mean where they differ."""
    mean = f"{setting.sequence_tokens:.0f}"
    return str(setting.seq_len) if mean == str(setting.seq_len) else f"{setting.seq_len} ({mean} in the mean)"


def _whole(run: WholeRun | None) -> list[str]:
    """Hours, price and energy of a training; nothing where it has no length."""
    if run is None:
        return []
    hours, low, high = run.hours
    energy = f"{digits(run.kwh.value)} kWh" if run.kwh else "–"
    return [
        f"{digits(hours)} h ({digits(low)}–{digits(high)})",
        f"${digits(run.usd.value)}" if run.usd else "–",
        energy,
    ]


def _layout(setting: TrainingSetting) -> str:
    """ "tp 4, pp 2, dp 8", and the other degrees where they are above 1."""
    always, others = ("tp", "pp", "dp"), ("vp", "cp", "ep", "expert_tp", "dp_replicate")
    shown = [name for name in (*always, *others) if name in always or getattr(setting, name) > 1]
    return ", ".join(f"{name} {getattr(setting, name)}" for name in shown)


def _gpus(report: Report | TrainingReport) -> str:
    return report.gpu.name if report.n_gpus == 1 else f"{report.n_gpus} × {report.gpu.name}"


def _load(report: Report) -> str:
    """ "batch 8", "8 clients" or "10 requests/s"."""
    request = report.request
    if request is None or request.scheduling == "static":
        return f"batch {report.workload.batch}"
    if request.clients:
        return f"{request.clients} clients"
    return f"{request.request_rate:g} requests/s" if request.request_rate else "a trace of requests"


def _of_load(report: Report | TrainingReport, served: Serving) -> str:
    """What a load shows beside its means."""
    request = report.request
    waves = ", first wave counted" if request and request.clients and request.warmup is None else ""
    rate, low, high = served.sustainable_rate
    full = "; more are asked of it" if served.saturated else ""
    return (
        f"{report.gpu.name}: p99 of TTFT {duration(served.ttft_p99_s.value)}, of TPOT "
        f"{duration(served.tpot_p99_s.value)}{waves}; "
        f"it holds {digits(rate)} requests/s ({digits(low)}–{digits(high)}){full}."
    )


def _lengths(workload: Workload) -> str:
    if image := getattr(workload.model, "image", 0):
        return f"{image} × {image} pixels"
    return f"{workload.input_len} tokens in" + (f", {workload.output_len} out" if workload.generates else "")


def _dtypes(workload: Workload) -> str:
    experts = workload.expert_dtype if workload.model.experts else ""
    weights = f"{workload.dtype}, experts {experts}" if experts not in ("", workload.dtype) else workload.dtype
    return f"{weights}, KV cache {workload.cache_dtype}" if workload.generates else weights


PHASES = {
    "prefill": "prefill (TTFT)",
    "decode": "one decode step (TPOT), operators half-way",
    "communication": "communication that computing does not hide",
    "bubble": "waiting for other stages of the pipeline",
}
UNDER_LOAD_PHASES = {
    "prefill": "the mean prompt and its wait (TTFT)",
    "decode": "the mean decode step, of {batch:.0f} sequences (TPOT)",
}


def _show_parts(report: Report | TrainingReport, bundle: Bundle) -> None:
    """A table for each phase, whose lines add up to the time in its title."""
    from predictor.latency.explain import OTHERS, Other, explained

    lines, served = explained(report, bundle), getattr(report, "served", None)
    titles = PHASES | (
        {name: text.format(batch=served.batch) for name, text in UNDER_LOAD_PHASES.items()} if served else {}
    )
    if (workload := getattr(report, "workload", None)) and not workload.generates:
        titles["prefill"] = "one pass"
    for phase in dict.fromkeys(line.phase for line in lines):
        of_phase = sorted((x for x in lines if x.phase == phase), key=lambda line: -line.latency_s.value)
        total = sum(line.latency_s.value for line in of_phase)
        show(
            ["op", ">calls", ">time", ">share", ">bound", ">utilization", "limited by", "basis", "shape"],
            [_part_row(line, total) for line in of_phase],
            title=" · ".join(
                (report.gpu.name, titles.get(phase, phase), duration(total), *_bandwidth(report.gpu, of_phase))
            ),
        )
    for name in dict.fromkeys(line.name for line in lines if isinstance(line, Other)):
        say(f"{name}: {OTHERS[name]}.", "  ")


def _bandwidth(gpu: Gpu, lines: Sequence[OpLine | Other]) -> list[str]:
    """The share of the memory bandwidth that a decode step uses (MBU); nothing of others."""
    if lines[0].phase != "decode":
        return []
    moved = sum(line.row()["bytes_moved"] for line in lines)
    return [f"MBU {percent(moved / gpu.mem_bytes_per_s / sum(line.latency_s.value for line in lines))}"]


def _part_row(line: OpLine | Other, total: float) -> list[str]:
    from predictor.latency.explain import Other

    seconds = line.latency_s.value
    measured = [duration(seconds), percent(seconds / total) if total else "–"]
    if isinstance(line, Other):
        return [line.name, "", *measured, "", "", "", "", ""]
    return [
        line.name,
        f"{line.count:,.0f}",
        *measured,
        duration(line.bound_s),
        percent(line.bound_s / seconds),
        line.limiter,
        BASES.get(line.basis, line.basis),
        line.shape,
    ]
