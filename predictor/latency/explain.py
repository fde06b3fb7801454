"""What a time is made of: its operators and all that is none of them, in lines that add up to what a report says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

from predictor.estimators.bundle import Bundle
from predictor.estimators.own_runs import Shift
from predictor.latency.own_runs import correction_of, shifted
from predictor.latency.report import Interval, OpLine, Report, Serving
from predictor.latency.static_batch import doubt_of, prompt_doubt, staged, with_host
from predictor.latency.steps import bound_of, op_lines, step
from predictor.latency.training import TrainingReport
from predictor.workloads.results import ENDS
from predictor.workloads.workload import Workload, decode_lengths

NOTHING = 1e-9  # a share of a time below which there is no line

# What is no operator, by name, and what it is.
OTHERS: Mapping[str, str] = {
    "bytes": "the step moves bytes that its operators, each alone, find in the cache",
    "pipeline fill": "stages wait for the first and after the last part of the batch",
    "host": "launches and preparation of steps that the GPU waits for",
    "request": "the engine's front end takes, tokenises and answers a request",
    "correction": "what runs of yours say that times are longer, or below zero shorter, than predicted",
    "length": "the mean step beside the one half-way through the output",
    "load": "what the mean request under load waits for beside its own prompt and the mean decode step: a queue, "
    "prompts of others, parts of a long prompt; below zero where drafts save steps",
    "offload": "the optimizer step on the host, or weights that come from there",
    "exposed": "what messages, between nodes too, and waiting for where tokens go add to computing beside them; "
    "below zero where it hides some",
    "bubble": "what a stage of the pipeline waits for the others",
}


class Other(NamedTuple):
    """A part of a phase that is no operator. name: one of OTHERS. latency_s: seconds, below zero where it saves."""

    phase: str
    name: str
    latency_s: Interval

    def row(self) -> dict[str, Any]:
        """As a flat row with the columns of an OpLine's: no shape, no basis, and no bound but what it saves."""
        ends = {f"latency_s{end}": value for end, value in zip(ENDS, self.latency_s, strict=True)}
        names = {"phase": self.phase, "name": self.name, "estimator": self.name, "limiter": self.name}
        none = {
            "count": 1.0,
            "bound_s": min(self.latency_s.value, 0.0),
            "bytes_moved": 0.0,
            "basis": "",
            "outside": (),
            "shape": "",
        }
        return names | none | ends


def explained(report: Report | TrainingReport, bundle: Bundle) -> tuple[OpLine | Other, ...]:
    """The operators of a report and what else there is: the parts of phase "prefill" add up to ttft_s, those of
    "decode" to tpot_s, those of all phases of training to step_s. Under load operators are those of the mean prompt
    alone and of a decode step of as many sequences as run together in the mean. Only of scalars.
    """
    if isinstance(report, TrainingReport):
        return (*report.ops, *_of_training(report))
    prompt = step_of = report.workload
    lines = report.ops
    if report.served:
        prompt, step_of = _mean(report.workload, report.served)
        shown = [("prefill", prompt.prefill_ops(round(report.served.mean_len[1])))]
        if any(line.phase == "decode" for line in lines):
            shown.append(("decode", step_of.decode_ops(_middle(step_of))))
        lines = tuple(chain.from_iterable(op_lines(shown, report.gpu, prompt.engine, bundle, prompt.links)))
    return (*lines, *_of_serving(report, lines, prompt, step_of, bundle))


def _mean(workload: Workload, served: Serving) -> tuple[Workload, Workload]:
    """The mean prompt of a load, alone, and what runs together in the mean decode step."""
    prompt, _, output = (max(round(tokens), 1) for tokens in served.mean_len)
    alone = replace(workload, batch=1, input_len=prompt, output_len=output)
    return alone, replace(alone, batch=max(round(served.batch), 1))


def _middle(workload: Workload) -> int:
    lengths: list[int] = decode_lengths(workload)
    return lengths[len(lengths) // 2]


def _of_serving(
    report: Report, lines: Sequence[OpLine], prompt: Workload, workload: Workload, bundle: Bundle
) -> Iterator[Other]:
    """What is no operator of a prompt and of the workload's decode step, whose lines these are."""
    prefill = [line for line in lines if line.phase == "prefill"]
    decode = [line for line in lines if line.phase == "decode"]
    engine = workload.engine_on(report.gpu)
    doubt = doubt_of(workload)
    alone = step(prefill, report.gpu, bundle, prompt_doubt(prompt, prefill))
    through = staged(alone, prompt, report.gpu)
    middle = step(decode, report.gpu, bundle, doubt) if decode else Interval(0.0, 0.0, 0.0)
    ttft, tpot = with_host(prompt, engine, through, middle)[0], with_host(workload, engine, through, middle)[1]
    request = Interval(*(engine.request_s for _ in range(3)))
    other = "load" if report.served else "length"
    yield from _between("prefill", ("bytes", _sum(prefill), alone), ("pipeline fill", alone, through))
    yield from _between(
        "prefill", ("host", _plus(through, request), ttft), ("request", through, _plus(through, request))
    )
    first, token = _corrected(report, ttft, tpot, lines, bundle)
    yield from _between("prefill", ("correction", ttft, first), ("load", first, report.ttft_s))
    if decode:
        yield from _between("decode", ("bytes", _sum(decode), middle), ("host", middle, tpot))
        yield from _between("decode", ("correction", tpot, token), (other, token, report.tpot_s))


def _corrected(
    report: Report, ttft: Interval, tpot: Interval, lines: Sequence[OpLine], bundle: Bundle
) -> tuple[Interval, Interval]:
    """Times of a prompt and of the middle step as runs of the user correct them; of a batch TTFT is the report's."""
    load = report.served is not None
    correction = correction_of(report.workload, report.gpu, bundle, load=load)
    prompt, pace = correction.prompt, correction.pace
    if load:  # the prompt's is beside that of all steps
        prompt = prompt._replace(log=prompt.log + pace.log)
    bounds = {
        phase: bound_of([line for line in lines if line.phase == phase], report.gpu) for phase in ("prefill", "decode")
    }
    first = shifted(ttft, prompt, bounds["prefill"]) if load or prompt == Shift() else report.ttft_s
    return first, shifted(tpot, pace, bounds["decode"])


def _of_training(report: TrainingReport) -> Iterator[Other]:
    spent = report.step
    times = {"forward": spent.forward_s, "backward": spent.backward_s, "optimizer": spent.optimizer_s}
    for phase, seconds in times.items():
        name = "offload" if phase == "optimizer" and spent.setting.offload != "none" else "host"
        device = _exactly(spent.device_s[phase])
        yield from _between(phase, ("exposed", _sum(_of(report, phase)), device), (name, device, _exactly(seconds)))
    yield from _between(
        "communication", ("exposed", _sum(_of(report, "communication")), _exactly(spent.communication_s))
    )
    yield from _between("bubble", ("bubble", _exactly(0.0), _exactly(spent.bubble_s)))


def _of(report: TrainingReport, phase: str) -> list[OpLine]:
    return [line for line in report.ops if line.phase == phase]


def _between(phase: str, *steps: tuple[str, Interval, Interval]) -> Iterator[Other]:
    """What lies between (name, time without, time with) that differ; its ends are the differences of theirs."""
    for name, without, whole in steps:
        more = [b - a for a, b in zip(without, whole, strict=True)]
        if abs(more[0]) > NOTHING * abs(whole.value):
            yield Other(phase, name, Interval(more[0], min(more), max(more)))


def _sum(lines: Sequence[OpLine]) -> Interval:
    return Interval(*(sum(line.latency_s[end] for line in lines) for end in range(3)))


def _plus(one: Interval, two: Interval) -> Interval:
    return Interval(*(a + b for a, b in zip(one, two, strict=True)))


def _exactly(seconds: float) -> Interval:
    return Interval(seconds, seconds, seconds)
