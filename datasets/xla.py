"""XLA: matrix products and collectives that its compiler's cost model interpolates, on H100, B200 and AMD's MI300s.

url       https://github.com/ROCm/xla, commit 106eb9b5 (AMD's branch of https://github.com/openxla/xla)
licence   Apache-2.0
read      xla/service/gpu/model/default_matmul_perf_table.txtpb -> gemm: bf16 with bf16 results; f32 of NVIDIA, which
          is tf32
          xla/service/gpu/model/default_collective_perf_table.txtpb -> collective: all-reduce, all-gather,
          reduce-scatter, all-to-all; collective-permute of one way -> send_recv
not read  fp8: 1.2 to 1.3 times H100's peak; bf16 with f32 results (a Gemm writes 16 bits); f32 of AMD, which beats
          fp32's peak on gfx942 and is ten times off on gfx950; permutes of two ways and rings, which no kind says;
          collectives of 1 and 2 KiB, the first of each series: up to 12 times what 4 KiB take
units     FLOP/s of 2·b·m·n·k; bytes/s of the whole buffer, so latency = work / rate. The buffer is an all-gather's
          result, a reduce-scatter's operand (the shape times the group), and the shape of all others.
timing    gemm: device, the median of traced kernels over runs with changing operands. Where a product is two kernels
          (sums of a split contraction) that is not their sum. collective: host, the median of 20 runs, with a floor
          of 11 us on B200, 50 on H100 and 100 to 365 on MI300X. A permute is a loop of 100, divided by 100 upstream.
engine    torch: XLA picks the best of cuBLAS, cuBLASLt and Triton by trial; kernel_name is xla. Collectives are
          nccl's (RCCL's on AMD), kernel_name xla with the type
GPU       sm_90 is H100-SXM, sm_100_B200 B200, gfx942 MI300X; gfx950 is MI350X or MI355X (taken as MI355X)
quirks    256 to 4096 a side and batches of 1, 2 and 4: large products have a batch. Groups of 2 and 4 are all groups
          of one machine at once (8 GPUs). Text protobuf without its schema: fields by name, in lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from predictor.errors import InvalidTable
from predictor.measurements.readers import Unread, folder, median_of_repeats, run_reader, stack

URL = "https://github.com/ROCm/xla"
TABLES = "xla/service/gpu/model"
MATMUL, COLLECTIVE = "default_matmul_perf_table.txtpb", "default_collective_perf_table.txtpb"
GPUS = {"sm_90": "H100-SXM-80GB", "sm_100_B200": "B200-SXM-180GB", "gfx942": "MI300X", "gfx950": "MI355X"}
DTYPES = {("bf16xbf16->bf16", "sm"): "bf16", ("bf16xbf16->bf16", "gfx"): "bf16", ("f32xf32->f32", "sm"): "tf32"}
KINDS = {
    "all-reduce": "all_reduce",
    "all-gather": "all_gather",
    "reduce-scatter": "reduce_scatter",
    "all-to-all": "all_to_all",
    "collective-permute": "send_recv",
}
FIRST_BYTES = 2**11  # of the messages that the first calls of a series send
ELEMENT_BYTES = {"F32": 4, "BF16": 2, "F16": 2}
Message = dict[str, list[Any]]
# A field with a value, a field that opens a message, or the end of one; comments may stand before each.
TOKEN = re.compile(r'(?:\s|#[^\n]*\n)*(?:(\w+)\s*:\s*("[^"]*"|[^\s{};]+)|(\w+)\s*:?\s*(\{)|(\})|;)')


def read(root: Path, unread: Unread) -> pd.DataFrame:
    """Both tables, as far as they are there."""
    tables = folder(root, TABLES, url=URL)
    frames = [
        make(profile, gpu, unread)
        for name, make in ((MATMUL, products), (COLLECTIVE, collectives))
        for profile, gpu in profiles(tables / name, unread)
    ]
    return stack(frames)


def profiles(path: Path, unread: Unread) -> Iterator[tuple[Message, str]]:
    """(what the table has of a chip, chip and GPU) for each chip that the catalogue knows."""
    if not path.is_file():
        unread.file(f"{path.name} is not there")
        return
    for entry in parsed(path.read_text())["entries"]:
        chip = entry["key"][0]
        gpu = unread.gpu(GPUS[chip]) if chip in GPUS else unread.file(f'chip "{chip}" is no known GPU')
        if gpu:
            yield entry["value"][0] | {"chip": [chip]}, gpu


def parsed(text: str) -> Message:
    """A text protobuf as nested messages: field → values in their order, each a text or a message.

    >>> parsed('a: 1  b { c: "x" } b { c: "y" }')
    {'a': ['1'], 'b': [{'c': ['x']}, {'c': ['y']}]}
    """
    root: Message = {}
    open_messages, end = [root], 0
    for token in TOKEN.finditer(text):
        if token.start() != end:
            break
        end = token.end()
        field, value, message, opens, closes = token.groups()
        if field:
            open_messages[-1].setdefault(field, []).append(value.strip('"'))
        elif opens:
            inner: Message = {}
            open_messages[-1].setdefault(message, []).append(inner)
            open_messages.append(inner)
        elif closes and len(open_messages) > 1:
            open_messages.pop()
    if len(open_messages) > 1 or text[end:].strip():
        raise InvalidTable(f"the text protobuf breaks off at character {end}; fetch it again.")
    return root


def products(profile: Message, gpu: str, unread: Unread) -> pd.DataFrame:
    """Matrix products of one chip."""
    vendor = re.sub(r"[\d_].*", "", profile["chip"][0])
    calls = [
        {**{name: int(entry[name][0]) for name in "bmnk"}, "types": rate["key"][0], "rate": float(rate["value"][0])}
        for entry in profile["entries"]
        for rate in entry["flops"]
    ]
    dtypes = {types: dtype for (types, maker), dtype in DTYPES.items() if maker == vendor}
    rows = unread.known(pd.DataFrame(calls), "types", dtypes, "dtype").rename(columns={"b": "batch"})
    flops = 2.0 * rows["batch"] * rows["m"] * rows["n"] * rows["k"]
    rows = unread.positive(rows.assign(latency_s=flops / rows["rate"]))
    return rows.assign(family="gemm", gpu=gpu, engine="torch", kernel_name="xla", timing="device", source="xla")


def collectives(profile: Message, gpu: str, unread: Unread) -> pd.DataFrame:
    """Collectives of one chip; a permute that was measured more than once is its median."""
    rows = pd.DataFrame([call(entry) for entry in profile["entries"]])
    rows = unread.keep(rows, rows["n_gpus"] > 0, "a permute of two ways or a ring")
    rows = unread.known(rows, "opcode", KINDS, "kind")
    rows = unread.keep(rows, rows["message_bytes"] > FIRST_BYTES, "a collective that is the first of its series")
    rows = unread.positive(rows.assign(latency_s=rows["message_bytes"] / rows["rate"]))
    rows = rows.assign(family="collective", gpu=gpu, engine="nccl", link="gpu", timing="host", source="xla")
    return median_of_repeats(stack([rows]))


def call(entry: Message) -> dict[str, Any]:
    """One measured collective; n_gpus is 0 where a permute is more than a one-way send."""
    instruction = entry["instruction"][0]
    shape, opcode = instruction["shape"][0], instruction["opcode"][0]
    element = shape["element_type"][0]
    size = ELEMENT_BYTES[element]
    for side in shape["dimensions"]:
        size *= int(side)
    if opcode == "collective-permute":
        pairs = instruction["source_target_pairs"]
        sources = {pair.get("source", ["0"])[0] for pair in pairs}
        targets = {pair.get("target", ["0"])[0] for pair in pairs}
        n_gpus = 0 if sources & targets else 2
    else:
        n_gpus = int(instruction["iota_collective_device_list"][0]["num_devices_per_group"][0])
    return {
        "opcode": opcode,
        "kernel_name": f"xla_{element.lower()}",
        "n_gpus": n_gpus,
        "message_bytes": float(size * (n_gpus if opcode == "reduce-scatter" else 1)),
        "rate": float(entry["network_throughput_bytes_per_sec"][0]),
    }


if __name__ == "__main__":
    run_reader(read, __doc__ or "")
