"""A batch whose sequences start together: prefill and decode steps as sums of ops, and the report made of them.

A workload whose sizes are columns gives a report of columns, by the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from predictor.bundle import Bundle
from predictor.cost import usd_per_hour
from predictor.elementwise import chosen, greater
from predictor.engines import Engine, get_engine
from predictor.gpu import Gpu
from predictor.memory import memory
from predictor.op_lines import Phase, op_lines
from predictor.remarks import doubts_of
from predictor.report import Interval, OpLine, Report
from predictor.sums import basis_of, limiter_of, mean_over, step
from predictor.workloads.workload import Workload

DECODE_POINTS = 5  # cached lengths at which a decode step is predicted; between them it is near linear
HOST_DOUBT = 0.25  # share by which the host times of another server may differ


def as_run_on(workload: Workload, gpu: Gpu) -> Workload:
    """The workload in the formats that engines choose on a GPU.

    Blackwell multiplies MXFP4 experts with MXFP8 activations, for which it has an instruction (TensorRT-LLM's default
    for gpt-oss; vLLM's in InferenceX's benchmarks); older parts widen them to 16 bits.
    """
    if workload.expert_dtype != "mxfp4_wo" or gpu.generation != "Blackwell":
        return workload
    return replace(workload, expert_dtype="mxfp4_mxfp8")


def report(
    workload: Workload, gpu: Gpu, bundle: Bundle, notes: tuple[str, ...] = (), engine: Engine | None = None
) -> Report:
    """The sum over the ops of prefill and of decode steps, with what limits them and what they need in memory.

    engine: by default that of the workload's name on the hosts of such GPUs.
    What does not generate has one pass, whose time is TTFT and E2E; its tokens are those of the input.
    """
    lines = op_lines(phases(workload), gpu, workload.engine, bundle)
    return composed(workload, gpu, bundle, lines, notes, engine)


def phases(workload: Workload) -> list[Phase]:
    """The steps that a report is made of: the prompt, and decode steps at a few lengths."""
    decodes = [("decode", workload.decode_ops(length)) for length in _decode_lengths(workload)]
    return [("prefill", workload.prefill_ops()), *decodes]


def composed(
    workload: Workload,
    gpu: Gpu,
    bundle: Bundle,
    lines: Sequence[list[OpLine]],
    notes: tuple[str, ...] = (),
    engine: Engine | None = None,
) -> Report:
    """The report of a workload whose `phases` have these lines."""
    points = _decode_lengths(workload)
    prefill, *decodes = lines
    ttft, tpots = _filled(step(prefill, gpu, bundle), workload.pp), [step(lines, gpu, bundle) for lines in decodes]
    tpot = Interval(*(mean_over(points, [t[i] for t in tpots]) for i in range(3)))
    ttft, tpot = with_host(workload, engine or get_engine(workload.engine).beside(gpu.generation), ttft, tpot)
    if not workload.generates:
        tpot = Interval(0.0, 0.0, 0.0)
    e2e = Interval(*(ttft[i] + (workload.output_len - 1) * tpot[i] for i in range(3)))
    tokens = workload.batch * (workload.output_len if workload.generates else workload.input_len)
    middle = decodes[len(decodes) // 2] if decodes else []
    limiter = limiter_of(prefill)
    if middle:
        limiter = chosen(workload.output_len > 1, limiter_of(middle), limiter)
    basis = basis_of([line.basis for line in prefill + middle])
    near, doubts = doubts_of(prefill + middle, gpu, bundle)
    return Report(
        workload=workload,
        gpu=gpu,
        price_usd=usd_per_hour(gpu),
        ttft_s=ttft,
        tpot_s=tpot,
        e2e_s=e2e,
        tokens_per_s=Interval(tokens / e2e.value, tokens / e2e.high, tokens / e2e.low),
        memory=memory(workload, gpu),
        limiter=limiter,
        basis=basis,
        nearest_gpu=near,
        bundle=bundle.id,
        level=bundle.level,
        notes=(*notes, *doubts),
        ops=tuple(prefill + middle),
    )


def with_host(workload: Workload, engine: Engine, ttft: Interval, tpot: Interval) -> tuple[Interval, Interval]:
    """TTFT and TPOT where the host has to issue the operators."""
    calls, batch = workload.launched(), workload.local_batch
    linear_s = engine.linear_s.get(workload.dtype, 0.0) * sum(c.count for c in calls if c.op.family == "gemm")
    issued = sum(call.count for call in calls) + (linear_s / engine.launch_s if linear_s else 0.0)
    hosts = [engine.times(share) for share in (1.0, 1 - HOST_DOUBT, 1 + HOST_DOUBT)]
    longest = workload.input_len + workload.output_len
    return (
        Interval(*(h.prompt_s(end, issued, batch) + h.request_s for h, end in zip(hosts, ttft, strict=True))),
        Interval(*(h.decode_s(end, issued, batch, longest) for h, end in zip(hosts, tpot, strict=True))),
    )


def _decode_lengths(workload: Workload) -> list[Any]:
    """Cached lengths at which a decode step is predicted, rising; some are equal where few tokens come out."""
    if not workload.generates:
        return []
    first, more = workload.input_len + 1, greater(workload.output_len - 2, 0)
    return [first + point * more // (DECODE_POINTS - 1) for point in range(DECODE_POINTS)]


def _filled(each: Interval, stages: int) -> Interval:
    """Time until the last of `stages` parts of a batch has passed as many stages, each part taking `each` alone."""
    return Interval(*(end * (2 * stages - 1) / stages for end in each))
