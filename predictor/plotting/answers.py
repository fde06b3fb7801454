"""The picture of `predictor predict`: of each GPU the parts of its times, and its roofline with the operators."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from predictor.errors import InvalidRequest
from predictor.latency.report import Report
from predictor.plotting import roofline, waterfall
from predictor.plotting.canvas import basis_text, drawn, say_below

if TYPE_CHECKING:
    from predictor.estimators.bundle import Bundle
    from predictor.latency.explain import Other
    from predictor.latency.report import Interval, OpLine
    from predictor.latency.training import TrainingReport

    Answer = Report | TrainingReport
    Lines = Sequence[OpLine | Other]

MOST_GPUS = 6
PANEL_INCH = (4.7, 3.9)
TITLES = {"prefill": "TTFT", "decode": "TPOT"}


def check_gpus(count: int) -> None:
    """Raise for more GPUs than a picture has rows."""
    if count > MOST_GPUS:
        raise InvalidRequest(
            f"--plot draws a row for each GPU, and {count} are asked for; give at most {MOST_GPUS}, or "
            "`predictor compare --plot`, which draws a point for each."
        )


def answers_picture(reports: Sequence[Answer], bundle: Bundle, file: Path) -> None:
    """Write the picture: a row for each GPU.

    Of serving TTFT, TPOT and the roofline, of training the step and the roofline. The bars of a time are the lines of
    `predictor predict --explain`, by name, and add up to it.
    """
    check_gpus(len(reports))
    rows = [times_of(report, bundle) for report in reports]
    columns = max(len(times) for times, _ in rows) + 1
    shown = reports[0]
    width, height = PANEL_INCH[0] * columns, PANEL_INCH[1] * len(rows) + 1.0
    with drawn(file, width, height) as figure:
        panels = figure.subplots(len(rows), columns, squeeze=False)
        figure.suptitle(_title(shown), fontsize=11, x=0.01, ha="left")
        steps = [step for times, _ in rows for _, _, parts in times for step in parts]
        every = [line for _, lines in rows for line in lines]
        figure.legend(
            handles=[*waterfall.legend(steps), *roofline.legend(every)], loc="outside right center", fontsize=8
        )
        for (times, _), report, line_of_panels in zip(rows, reports, panels, strict=True):
            for panel, (name, whole, parts) in zip(line_of_panels, times, strict=False):
                waterfall.draw_waterfall(panel, parts, whole, f"{_gpus(report)} · {name}")
            for panel in line_of_panels[len(times) : -1]:
                panel.remove()
        told = []
        for (_, lines), report, line_of_panels in zip(rows, reports, panels, strict=True):
            title = f"{report.gpu.name} · roofline"
            told.append(roofline.draw_roofs(line_of_panels[-1], report.gpu, lines, title))
        say_below(figure, basis_text(shown.bundle, shown.level), *dict.fromkeys(told))
        for (_, lines), line_of_panels in zip(rows, panels, strict=True):
            roofline.name_points(line_of_panels[-1], lines)


def times_of(report: Answer, bundle: Bundle) -> tuple[list[tuple[str, Interval, list[waterfall.Step]]], Lines]:
    """(name, time, parts) of each time of a report, and the lines they are made of."""
    from predictor.latency.explain import explained

    lines = explained(report, bundle)
    if not isinstance(report, Report):
        return [("step", report.step_s, _of_training(lines))], lines
    wholes = {"prefill": report.ttft_s, "decode": report.tpot_s}
    times = []
    for phase in dict.fromkeys(line.phase for line in lines):
        of_phase = [line for line in lines if line.phase == phase]
        times.append((TITLES[phase], wholes[phase], waterfall.steps_of(of_phase)))
    return times, lines


def _of_training(lines: Lines) -> list[waterfall.Step]:
    """Parts of a step, named with their phase."""
    return waterfall.steps_of([line._replace(name=f"{line.phase}: {line.name}") for line in lines])


def _title(report: Answer) -> str:
    if not isinstance(report, Report):
        setting = report.step.setting
        return f"{report.model} · training, {setting.method}, {setting.dtype} · {setting.step_tokens:,} tokens a step"
    workload = report.workload
    load = f"batch {workload.batch}"
    if report.served and report.request:
        asked = report.request
        load = f"{asked.clients} clients" if asked.clients else f"{asked.request_rate:g} requests/s"
    image = getattr(workload.model, "image", 0)
    prompt = f"{image} × {image} pixels" if image else f"{workload.input_len} tokens in"
    lengths = prompt + (f", {workload.output_len} out" if workload.generates else "")
    return f"{workload.model.name} · {workload.dtype} · {workload.engine} · {load} · {lengths}"


def _gpus(report: Answer) -> str:
    return report.gpu.name if report.n_gpus == 1 else f"{report.n_gpus} × {report.gpu.name}"
