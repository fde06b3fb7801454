"""A batch whose sequences start together: prefill and decode steps as sums of ops, and the report made of them.

A workload whose sizes are columns gives a report of columns, by the same arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from predictor.elementwise import chosen, greater, lesser
from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import Gpu
from predictor.hardware.prices import usual_offer
from predictor.latency.own_runs import TINY, correction_note, correction_of, shifted
from predictor.latency.report import EXPERTS_DOUBT, OLDER_DOUBT, SERVER_DOUBT, SOFTWARE_DOUBT, Interval, OpLine, Report
from predictor.latency.steps import basis_of, bound_lines, bound_of, doubts_of, limiter_of, mean_over, step
from predictor.memory.closed_form import memory
from predictor.ops import Attention, Mla
from predictor.workloads.architectures.tower import PREFIX
from predictor.workloads.engine_tables import rates_of
from predictor.workloads.engines import Engine, get_engine
from predictor.workloads.images import image_launches
from predictor.workloads.workload import Workload, decode_lengths, phases

HOST_DOUBT = 0.25  # share by which the host times of another server may differ
SPLITS_GRAPHS = (Attention.family, Mla.family)  # what pieces of a captured step lie between
TOWER_DOUBT = 0.5  # of the time of a vision tower, of which none was measured; judged


class Times(NamedTuple):
    """Seconds and tokens per second of a batch, over all GPUs: numbers, or columns of (n_requests,).

    host_s: seconds of e2e_s in which the GPU waits for the host.
    """

    ttft_s: Interval
    tpot_s: Interval
    e2e_s: Interval
    tokens_per_s: Interval
    host_s: Interval


def static_times(
    workload: Workload, gpu: Gpu, bundle: Bundle, lines: Sequence[list[OpLine]], engine: Engine | None = None
) -> Times:
    """The times of a batch whose sequences start together; lines: of the workload's `phases`.

    engine: by default the workload's on the hosts of such GPUs. What does not generate has one pass, whose time is TTFT
    and E2E; its tokens are those of the input.
    """
    prefill, *decodes = lines
    doubt = doubt_of(workload)
    ttft = staged(step(prefill, gpu, bundle, prompt_doubt(workload, prefill)), workload, gpu)
    tpots = [step(lines, gpu, bundle, doubt) for lines in decodes]
    tpot = Interval(*(mean_over(decode_lengths(workload), [t[i] for t in tpots]) for i in range(3)))
    device = (ttft, tpot)
    before = with_host(workload, engine or workload.engine_on(gpu), ttft, tpot)
    ttft, tpot = _corrected(*before, lines, workload, gpu, bundle)
    device = (_along(device[0], before[0], ttft), _along(device[1], before[1], tpot))
    if not workload.generates:
        device, tpot = (device[0], Interval(0.0, 0.0, 0.0)), Interval(0.0, 0.0, 0.0)
    following = workload.output_len - 1
    waits = [ttft[i] - device[0][i] + following * (tpot[i] - device[1][i]) for i in range(3)]
    host = Interval(waits[0], lesser(waits[0], lesser(*waits[1:])), greater(waits[0], greater(*waits[1:])))
    e2e = Interval(*(ttft[i] + following * tpot[i] for i in range(3)))
    tokens = workload.batch * (workload.output_len if workload.generates else workload.input_len)
    return Times(ttft, tpot, e2e, Interval(tokens / e2e.value, tokens / e2e.high, tokens / e2e.low), host)


def _corrected(
    ttft: Interval, tpot: Interval, lines: Sequence[list[OpLine]], workload: Workload, gpu: Gpu, bundle: Bundle
) -> tuple[Interval, Interval]:
    """TTFT and TPOT as a user's own runs correct them."""
    correction = correction_of(workload, gpu, bundle, load=False)
    least, *per_token = (bound_of(of_step, gpu) for of_step in lines) if correction.applies else (0.0,)
    through = staged(Interval(least, least, least), workload, gpu).value
    ttft = shifted(ttft, correction.prompt, through)
    return ttft, shifted(tpot, correction.pace, mean_over(decode_lengths(workload) if per_token else (), per_token))


def _along(part: Interval, before: Interval, after: Interval) -> Interval:
    """A part of times that changed, by as much."""
    if before is after:
        return part
    return Interval(*(end * new / greater(old, TINY) for end, old, new in zip(part, before, after, strict=True)))


def composed(
    workload: Workload, gpu: Gpu, bundle: Bundle, lines: Sequence[list[OpLine]], times: Times, **more: Any
) -> Report:
    """The report of a workload whose `phases` have these lines and whose batch takes these times.

    more: other fields of Report; notes come before those on what nobody measured.
    """
    prefill, middle = prompt_and_middle(lines)
    limiter = limiter_of(prefill, gpu)
    if middle:
        limiter = chosen(workload.output_len > 1, limiter_of(middle, gpu), limiter)
    limiter = chosen(times.host_s.value > times.e2e_s.value / 2, "launch", limiter)  # the GPU waits for the host
    near, doubts = doubts_of(prefill + middle, gpu, bundle)
    own = correction_note(workload, gpu, bundle, load=more.get("served") is not None)
    offer = usual_offer(gpu, workload.layout.n_gpus, workload.layout.n_gpus // workload.layout.dp)
    return Report(
        workload=workload,
        gpu=gpu,
        **times._asdict(),
        limiter=limiter,
        basis=basis_of([line.basis for line in prefill + middle]),
        nearest_gpu=near,
        bundle=bundle.id,
        level=bundle.level,
        ops=tuple(prefill + middle),
        **{
            "price_usd": offer and offer.usd_per_gpu_hour,
            "price_source": offer.told if offer else "",
            "memory": more.get("memory") or memory(workload, gpu),
            **more,
            "notes": (*more.get("notes", ()), *filter(None, [own]), *doubts),
        },
    )


def prompt_and_middle(lines: Sequence[list[OpLine]]) -> tuple[list[OpLine], list[OpLine]]:
    """The lines that a report shows of a workload's `phases`: of the prompt, and of the decode step half-way."""
    prefill, *decodes = lines
    return prefill, decodes[len(decodes) // 2] if decodes else []


def doubts(workload: Workload, gpu: Gpu, bundle: Bundle) -> list[str]:
    """What the report of a workload notes of its GPU and its ops, without their latencies."""
    prefill, middle = prompt_and_middle(bound_lines(phases(workload), gpu, workload.engine, bundle, workload.links))
    return doubts_of(prefill + middle, gpu, bundle)[1]


def with_host(workload: Workload, engine: Engine, ttft: Interval, tpot: Interval) -> tuple[Interval, Interval]:
    """TTFT and TPOT where the host has to issue the operators.

    Prompts so short that their step is made of graphs were not timed: the lower end is where these work as written.
    """
    calls, batch = workload.launched(), workload.local_batch
    linear_s = engine.linear_s.get(workload.dtype, 0.0) * sum(c.count for c in calls if c.op.family == "gemm")
    issued = sum(call.count for call in calls) + (linear_s / engine.launch_s if linear_s else 0.0)
    doubt = max(HOST_DOUBT, engine.doubt)
    hosts = [engine.times(share) for share in (1.0, 1 - doubt, 1 + doubt)]
    seen = issued + image_launches(workload)
    captured = (batch * workload.input_len <= engine.graph_prompts) & engine.graphs
    pieces = 2 * sum(call.count for call in calls if call.op.family in SPLITS_GRAPHS)
    by_end = (seen, chosen(captured, lesser(pieces, seen), seen), seen)
    longest, beams = workload.input_len + workload.output_len, batch * workload.beam_width
    return (
        Interval(
            *(
                h.prompt_s(end, launches, batch) + h.request_s + h.batch_s
                for h, end, launches in zip(hosts, ttft, by_end, strict=True)
            )
        ),
        Interval(*(h.decode_s(end, issued, beams, longest) for h, end in zip(hosts, tpot, strict=True))),
    )


def prompt_doubt(workload: Workload, prefill: Sequence[OpLine]) -> float:
    """What is added to the interval of a prompt, by the share of it that a vision tower takes."""
    doubt = doubt_of(workload)
    if not workload.images:
        return doubt
    tower = sum(line.latency_s.value for line in prefill if line.name.startswith(PREFIX))
    return math.hypot(doubt, TOWER_DOUBT * tower / sum(line.latency_s.value for line in prefill))


def doubt_of(workload: Workload) -> float:
    """What the software around its ops adds to the interval of a step."""
    engine = get_engine(workload.engine)
    if not engine.joins or not workload.generates:
        return SOFTWARE_DOUBT
    if workload.model.experts:
        return math.hypot(EXPERTS_DOUBT, engine.doubt)
    return math.hypot(OLDER_DOUBT if engine.tables else SERVER_DOUBT, engine.doubt)


def staged(prompt: Interval, workload: Workload, gpu: Gpu) -> Interval:
    """Time of a prompt through all stages of layers, `prompt` being that of the part of the batch that is in one."""
    rates = rates_of(workload.engine, gpu.vendor)
    if rates is None or not workload.pass_tokens:
        return filled(prompt, workload)
    passes = -(-workload.local_batch * workload.input_len // workload.pass_tokens)
    return walked(prompt, workload.pp, passes, rates.overlap)


def filled(part: Interval, workload: Workload) -> Interval:
    """Time until the last part of a batch has passed all stages, one taking `part` alone.

    A batch has as many parts as there are stages, or sequences: one prompt alone takes one pass.
    """
    stages = workload.pp
    parts = lesser(stages, workload.local_batch)
    return Interval(*(end * (stages + parts - 1) / stages for end in part))


def walked(prompt: Interval, stages: int, passes: Any, overlap: float) -> Interval:
    """Time of a batch that walks through all stages in `prompt`, where its passes may be in several at once.

    A stage takes its share of a pass, and all passes are through after passes + stages - 1 such shares (llama.cpp pull
    request 6017, March 2024). overlap: how much of that shows.

    >>> walked(Interval(8.0, 8.0, 8.0), 4, 1, 0.8).value, walked(Interval(8.0, 8.0, 8.0), 4, 4, 1.0).value
    (8.0, 3.5)
    """
    apart = overlap * (1 - (passes + stages - 1) / (passes * stages))
    return Interval(*(end * (1 - apart) for end in prompt))
