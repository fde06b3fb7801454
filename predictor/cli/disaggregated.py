"""predictor disaggregated: a pool of prefill workers and a pool of decode workers, and how many of each match."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option, Typer

from predictor.boosters import load_xgboost
from predictor.cli.common.display import (
    BASES,
    digits,
    duration,
    duration_interval,
    layout_text,
    percent,
    show,
    show_json,
    show_notes,
    show_sheet,
)
from predictor.units import GB
from predictor.workloads.engine_tables import SERVES, listed_names

if TYPE_CHECKING:
    from predictor.latency.report import Interval
    from predictor.latency.serving.disaggregated import Plan

LIMITS = {
    "prefill": "the prefill pool",
    "decode": "the decode pool",
    "transfer": "the links between the pools",
    "arrivals": "arrivals: neither pool is full",
}


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(disaggregated)


def disaggregated(
    model: Annotated[str, Argument(help="Model name, hub id, or path of a config.json.")],
    *,
    gpu: Annotated[str, Option(help="GPU of the prefill workers: name, MIG slice or a .toml file.")],
    decode_gpu: Annotated[str, Option(help="GPU of the decode workers; by default the same.")] = "",
    prefill_tp: Annotated[int, Option(help="GPUs that share each layer of a prefill worker.")] = 1,
    prefill_pp: Annotated[int, Option(help="Its stages of layers.")] = 1,
    prefill_ep: Annotated[int, Option(help="Its shares of the experts.")] = 1,
    prefill_attention_dp: Annotated[int, Option(help="Its groups of tp GPUs with sequences of their own.")] = 1,
    decode_tp: Annotated[int, Option(help="GPUs that share each layer of a decode worker.")] = 1,
    decode_pp: Annotated[int, Option(help="Its stages of layers.")] = 1,
    decode_ep: Annotated[int, Option(help="Its shares of the experts.")] = 1,
    decode_attention_dp: Annotated[int, Option(help="Its groups of tp GPUs with sequences of their own.")] = 1,
    prefill_workers: Annotated[int, Option(help="Prefill workers; 0 finds the number.")] = 0,
    decode_workers: Annotated[int, Option(help="Decode workers; 0 finds the number.")] = 0,
    n_gpus: Annotated[int, Option(help="GPUs to split between the pools for the most tokens per second.")] = 0,
    request_rate: Annotated[float, Option(help="Requests per second that arrive; alone it sizes the pools.")] = 0.0,
    concurrency: Annotated[int, Option(help="Clients that wait for their answers; n_gpus are split for them.")] = 0,
    max_ttft: Annotated[
        float, Option("--max-ttft-s", "--max-ttft", help="Highest mean TTFT in seconds; 0: any.")
    ] = 0.0,
    max_tpot: Annotated[float, Option("--max-tpot-s", "--max-tpot", help="Highest TPOT in seconds; 0: any.")] = 0.0,
    max_prefill_load: Annotated[float, Option(help="Highest share of what prefill workers can take.")] = 0.9,
    link_gb_per_s: Annotated[
        float, Option(help="Link between the pools, GB/s per GPU and direction; 0: 50 (400 Gb/s), or PCIe if slower.")
    ] = 0.0,
    input_len: Annotated[int, Option(help="Prompt tokens per request.")] = 1024,
    output_len: Annotated[int, Option(help="Generated tokens per request.")] = 128,
    dtype: Annotated[str, Option(help="Number format of the linear layers; by default that of the weights.")] = "",
    kv_dtype: Annotated[str, Option(help="Number format of the KV cache; by default that of activations.")] = "",
    engine: Annotated[str, Option(help=f"{listed_names(joining=True)}.")] = SERVES,
    link: Annotated[str, Option(help="What joins the GPUs of a worker: nvlink, pcie or host.")] = "",
    node_link: Annotated[str, Option(help="Network of its GPUs between nodes: GB/s, or such as ib-400.")] = "",
    bundle: Annotated[str, Option(help="Released bundle or folder of one; by default the newest.")] = "",
    json: Annotated[bool, Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Serving with prefill and decode on GPUs of their own: how many workers match, and what they do."""
    from predictor.latency.serving.disaggregated import plan
    from predictor.workloads.passes.calls import Layout

    load_xgboost()
    pools = plan(
        model,
        gpu,
        decode_gpu=decode_gpu,
        prefill=Layout(tp=prefill_tp, pp=prefill_pp, ep=prefill_ep, attention_dp=prefill_attention_dp),
        decode=Layout(tp=decode_tp, pp=decode_pp, ep=decode_ep, attention_dp=decode_attention_dp),
        link_bytes_per_s=link_gb_per_s * GB,
        bundle=bundle,
        prefill_workers=prefill_workers,
        decode_workers=decode_workers,
        n_gpus=n_gpus,
        request_rate=request_rate,
        concurrency=concurrency,
        max_ttft_s=max_ttft,
        max_tpot_s=max_tpot,
        max_prefill_load=max_prefill_load,
        input_len=input_len,
        output_len=output_len,
        dtype=dtype,
        kv_dtype=kv_dtype,
        engine=engine,
        link=link,
        node_link=node_link,
    )
    if json:
        show_json(pools.to_dict())
    else:
        _show(pools, concurrency)


def _show(plan: Plan, clients: int) -> None:
    workload = plan.prefill
    title = (
        f"{workload.model.name} · {workload.dtype}, KV cache {workload.cache_dtype} · {workload.input_len} tokens in, "
    )
    rates = plan.prefill_requests_per_s, plan.decode_requests_per_s
    pools = (
        (
            "prefill",
            plan.prefill_workers,
            plan.prefill_gpu.name,
            plan.prefill.layout,
            percent(plan.prefill_load) + " busy",
        ),
        (
            "decode",
            plan.decode_workers,
            plan.decode_gpu.name,
            plan.decode.layout,
            f"{digits(plan.decode_batch)} sequences",
        ),
    )
    show(
        ["pool", ">workers", "of", "layout", ">sustains", ">load of each"],
        [
            [pool, f"{count}", f"{of.n_gpus} × {gpu}", layout_text(of), f"{digits(rate)} requests/s", load]
            for (pool, count, gpu, of, load), rate in zip(pools, rates, strict=True)
        ],
        title=f"{title}{workload.output_len} out · {workload.engine} · {plan.n_gpus} GPUs",
    )
    facts = {
        "TTFT": duration_interval(*plan.ttft_s) + f", KV cache transfer {duration(plan.transfer_s)}",
        "TPOT": duration_interval(*plan.tpot_s),
        "E2E": duration_interval(*plan.e2e_s),
        "requests/s": _digits(plan.requests_per_s),
        "tokens/s": _digits(plan.tokens_per_s),
        "tokens/s per GPU": _digits(plan.tokens_per_s_per_gpu),
        "limited by": LIMITS[plan.limiter],
        "price": f"{plan.usd_per_mtok:.2f} USD per million tokens put out" if plan.usd_per_mtok else "unknown",
        **({"of": plan.price_source} if plan.usd_per_mtok else {}),
        "basis": BASES[plan.basis],
    }
    come = f"of {clients} clients that wait for their answers" if clients else "that arrive at random"
    show_sheet(facts, f"Means over requests {come}, with the interval at the {plan.level:.0%} level")
    show_notes(plan.notes)


def _digits(interval: Interval) -> str:
    return f"{digits(interval.value)} ({digits(interval.low)}–{digits(interval.high)})"
