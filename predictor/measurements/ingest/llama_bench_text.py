"""The outputs of llama-bench as tests by its own field names: JSON, JSON lines, CSV, SQL and Markdown.

Lines that were logged before or after, and colours of a terminal, are skipped. Source of the formats: the printers of
tools/llama-bench/llama-bench.cpp of llama.cpp. Markdown tells neither file nor GPU; the log above it may tell the GPU.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from predictor.measurements.ingest.content import Content, broken
from predictor.units import GIB, MIB

KEYS = ("model_filename", "n_prompt", "n_gen", "avg_ns")
FIRST_KEY = "build_commit"
MOST_BROKEN = 1000  # braces in a log
COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
INSERT = re.compile(r"INSERT INTO \w+ \(([^()]*)\) VALUES \((.*)\);\s*$")
MARKDOWN = re.compile(r"^\|\s*model\s*\|.*\|\s*test\s*\|\s*t/s\s*\|\s*$")
TEST = re.compile(r"^(?:pp\s?(\d+))?\+?(?:tg\s?(\d+))?(?:\s*@\s*d(\d+))?$")
SIZE = {"MiB": MIB, "GiB": GIB, "M": 1e6, "B": 1e9}
# Names of Markdown columns → fields.
FIELDS = {
    **{"model": "model_type", "size": "model_size", "params": "model_n_params", "backend": "backends"},
    **{"ngl": "n_gpu_layers", "sm": "split_mode", "nkvo": "no_kv_offload", "fa": "flash_attn", "dev": "devices"},
    **{"ts": "tensor_split", "ot": "tensor_buft_overrides"},
}
# A GPU as the backends of CUDA and HIP, Vulkan, Metal and SYCL log it.
LOGGED = (
    re.compile(r"^\s*Device \d+: (.+?), (?:compute capability|gfx)"),
    re.compile(r"^ggml_vulkan: \d+ = (.+?)(?: \((?!RADV)[^()]*\))? \|"),
    re.compile(r"^ggml_metal_(?:device_)?init: GPU name:\s+(.+?)\s*$"),
    re.compile(r"^\|\s*\d+\|\s*\[level_zero:gpu:\d+\]\|\s*([^|]+?)\s*\|"),
)


def claims(content: Content) -> bool:
    """Whether a file has the fields of llama-bench, or a table of its Markdown."""
    if content.kind == "csv":
        return any(_starts(line) for line in content.text.splitlines())
    return content.has(*KEYS)


def tests(content: Content) -> Iterator[Mapping[str, Any]]:
    """The tests of a file, in order. What is no number is left as text."""
    if content.kind != "csv":
        yield from (test if isinstance(test, dict) else {} for test in content.documents)
        return
    try:
        yield from _printed(content.text)
    except csv.Error as error:
        raise broken(content.path, "CSV", error) from error


def _printed(text: str) -> Iterator[Mapping[str, Any]]:
    lines = COLOUR.sub("", text).splitlines()
    if any(line.startswith("INSERT INTO") for line in lines):
        yield from (dict(_inserted(match)) for match in map(INSERT.match, lines) if match)
    elif any(MARKDOWN.match(line) for line in lines):
        yield from _markdown(lines)
    elif (header := next((n for n, line in enumerate(lines) if all(key in line for key in KEYS)), -1)) >= 0 and (
        "{" not in lines[header]
    ):
        yield from csv.DictReader(line for line in lines[header:] if line.strip())
    else:
        yield from _json(lines)


def _starts(line: str) -> bool:
    plain = COLOUR.sub("", line)
    return bool(MARKDOWN.match(plain)) or all(key in plain for key in KEYS) or plain.lstrip().startswith(f'"{KEYS[0]}"')


def _inserted(match: re.Match[str]) -> Iterator[tuple[str, str]]:
    values = next(csv.reader([match[2]], quotechar="'", skipinitialspace=True))
    yield from zip((name.strip() for name in match[1].split(",")), values, strict=False)


def _json(lines: list[str]) -> Iterator[Mapping[str, Any]]:
    """Objects on lines of their own, or over several, between lines of a log."""
    decoder, text = json.JSONDecoder(), "\n".join(lines)
    at, broken_ones = text.find("{"), 0
    while at >= 0:
        try:
            found, end = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError):
            end, found, broken_ones = at + 1, None, broken_ones + 1
            if broken_ones > MOST_BROKEN:
                raise csv.Error(f"more than {MOST_BROKEN} braces that begin no object") from None
        if isinstance(found, dict) and set(KEYS) <= set(found):
            yield found
        start, at = at, text.find("{", end)
        if found is None and _begins(text[start : at if at >= 0 else len(text)]):
            yield {}  # a test that is cut


def _begins(part: str) -> bool:
    """Whether a text from a brace to the next is of a test."""
    return part.strip() == "{" or any(f'"{name}"' in part for name in (FIRST_KEY, *KEYS))


def _markdown(lines: list[str]) -> Iterator[Mapping[str, Any]]:
    names: list[str] = []
    gpus: list[str] = []
    for line in lines:
        if told := next((match[1] for match in (form.match(line) for form in LOGGED) if match), ""):
            gpus.append(told)
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if MARKDOWN.match(line):
            names = cells
        elif not line.startswith("|"):
            names = [] if line.strip() else names
        elif names and not set(line) <= set("|-: "):
            yield {"gpu_info": ", ".join(gpus)} | _shown(dict(zip(names, cells, strict=False)))


def _shown(cells: Mapping[str, str]) -> dict[str, Any]:
    """A row of Markdown in the fields of the other outputs; avg_ns is absent where test or t/s cannot be read."""
    told: dict[str, Any] = {FIELDS.get(name, name): cell for name, cell in cells.items()}
    for name in ("model_size", "model_n_params"):
        number, _, unit = str(told.get(name, "")).partition(" ")
        told[name] = float(number) * SIZE[unit] if unit in SIZE and _is_number(number) else 0.0
    test, speed = TEST.match(cells.get("test", "")), re.split(r"\s*(?:±|\+/-)", cells.get("t/s", ""))[0]
    if test and _is_number(speed) and float(speed) > 0:
        counts = [int(count or 0) for count in test.groups()]
        told |= dict(zip(("n_prompt", "n_gen", "n_depth"), counts, strict=True))
        told["avg_ns"] = 1e9 * (counts[0] + counts[1]) / float(speed)
    return told


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"\d+(?:\.\d+)?", text))
