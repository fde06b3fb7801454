"""What may be asked over HTTP: the commands whose answer is JSON, their options as query parameters.

The parameters of a question are the columns of a request, checked here by kind and size; what a model or a GPU cannot
do is said where it is known. Nothing names a file of this machine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from functools import cache
from typing import Any, NamedTuple

from predictor.errors import InvalidRequest
from predictor.ops import FAMILIES
from predictor.ops.base import TEXT_FIELDS, names_of
from predictor.planning.columns import DECIDED, SCORED
from predictor.values import did_you_mean, show
from predictor.web.sent import SENT, stated
from predictor.web.uploads import ID
from predictor.workloads.cells import checked
from predictor.workloads.engine_tables import SERVES, measured_engines
from predictor.workloads.models import names_file
from predictor.workloads.passes.choices import CHOICES
from predictor.workloads.request import columns

FILES = ("weights",)  # columns that name a file, which nobody sends
LONGEST = 6000  # characters of a value
MOST_GPUS = 16  # that one question names apart
MOST_VARIED = 32  # answers of one sweep
MOST_LOCAL = 16  # models of one machine
MOST_WORKS = 8  # of a mix
MOST_SCORES = 16  # files of one question
MANY_GPUS = 4  # beyond which a plan or a comparison is slow
# What a column may hold at most, where more would keep this machine busy for long.
MOST: Mapping[str, float] = {
    **dict.fromkeys(("batch", "concurrency", "micro_batch", "grad_accum", "global_batch"), 2**16),
    **dict.fromkeys(("input_len", "seq_len", "mean_seq_len", "max_model_len", "shared_prefix_len"), 2**21),
    **dict.fromkeys(("tp", "pp", "ep", "cp", "attention_dp", "vp", "expert_tp", "turns", "beam_width"), 2**10),
    **dict.fromkeys(("n_gpus", "dp", "dp_replicate", "max_gpus", "num_prompts"), 2**14),
    "output_len": 2**17,
    "request_rate": 1e4,
    "image_size": 2**13,
    "images": 2**8,
    "draft_tokens": 64,
    "top": 200,
}


SLOW = ("upgrade", "local", "quality", "disaggregated")  # which try several layouts, formats, models or numbers
MOST_TIMES = {"gpu": MOST_GPUS, "work": MOST_WORKS, "model": MOST_LOCAL, "scores": MOST_SCORES, "as": MOST_SCORES}


class Parameter(NamedTuple):
    """A query parameter. many: it may come several times. most: largest number."""

    name: str
    kind: type
    default: Any
    text: str
    choices: tuple[str, ...] = ()
    many: bool = False
    needed: bool = False
    most: float = math.inf
    column: bool = False


class Question(NamedTuple):
    """A path below /api/. text: what it answers. command: that says the same."""

    name: str
    text: str
    command: str
    parameters: tuple[Parameter, ...]

    def understood(self, query: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """The values of a query by name, without those that are left out; raises InvalidRequest for what they may not
        be."""
        known = {parameter.name: parameter for parameter in self.parameters}
        given: dict[str, Any] = {}
        for name, text in query:
            if name in (*FILES, "bundle"):
                raise InvalidRequest(f"{name} is a file of the server, none of which is read; leave it out.")
            if name not in known:
                raise InvalidRequest(f"there is no parameter {name[:80]}; {did_you_mean(name[:80], list(known), SEE)}")
            if len(text) > LONGEST:
                raise InvalidRequest(f"{name} has {len(text)} characters; at most {LONGEST} are read.")
            parameter = known[name]
            if not text.strip():
                continue
            value = _value(parameter, text.strip())
            if parameter.many:
                given.setdefault(name, []).append(value)
            elif name in given:
                raise InvalidRequest(f"{name} is given twice; give it once.")
            else:
                given[name] = value
        for parameter in self.parameters:
            if parameter.needed and parameter.name not in given:
                raise InvalidRequest(f"{parameter.name} is missing; {parameter.text}")
        for name, most in MOST_TIMES.items():
            if isinstance(given.get(name), list) and len(given[name]) > most:
                raise InvalidRequest(f"{name} is given {len(given[name])} times; at most {most} are answered at once.")
        return given

    def is_slow(self, given: Mapping[str, Any]) -> bool:
        """Whether an answer may take seconds: a plan that tries other engines and settings, too, what tries several
        layouts or formats of several models, and of many GPUs any."""
        gpus = str(given.get("gpus", "all"))
        many = gpus.count(",") >= MANY_GPUS or not any(letter.isdigit() for letter in gpus)
        several = (self.name == "plan" and given.get("vary", True)) or self.name in SLOW
        return several or (self.name in ("plan", "compare") and many)


SEE = "see /api/docs."


def _value(parameter: Parameter, text: str) -> Any:
    """What a text says, as the parameter has it."""
    name = parameter.name
    if parameter.kind is dict:
        return _work(text)
    if name in SENT:
        return _id(name, text)
    if name == "as":
        file, model, _ = stated(text)
        _id("scores", file)
        if not model:
            raise InvalidRequest(f"as is {show(text)}; write ID=MODEL:DTYPE, such as {file}=Llama-3.1-8B:fp8.")
        _check_text(MODEL, model)
    if parameter.column:
        column = next(column for column in columns() if column.name == name)
        value = checked(column, text)
    elif parameter.kind is bool:
        if text.casefold() not in ("true", "false", "1", "0"):
            raise InvalidRequest(f"{name} is {show(text)}; it must be true or false.")
        value = text.casefold() in ("true", "1")
    elif parameter.kind in (int, float):
        value = _number(name, text, parameter.kind)
    else:
        value = text
    if isinstance(value, str):
        _check_text(parameter, value)
    elif value is not None and value > parameter.most:
        raise InvalidRequest(f"{name} is {value:g}; it must be at most {parameter.most:g} here.")
    return value


def _id(name: str, text: str) -> str:
    """The id of a file that was sent."""
    if not ID.fullmatch(text):
        raise InvalidRequest(
            f"{name} is {show(text)}; files of the server are not read. Drop the file on the page, or POST it to "
            f"/api/{name}."
        )
    return text


def _work(text: str) -> dict[str, Any]:
    """A part of a mix: share, name and columns of a request, each checked as alone; dtype may list several."""
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise InvalidRequest(
            f'work is {show(text)}; it must be a JSON object such as {{"model": "Qwen3-8B", "batch": 8}}.'
        )
    known = {parameter.name: parameter for parameter in (MODEL, *_columns())}
    for name, value in table.items():
        if name in ("share", "name"):
            continue
        if name in (*FILES, *SENT):
            raise InvalidRequest(f"{name} is stated in work; no file is read there. Leave it out.")
        for one in value if name == "dtype" and isinstance(value, list) else [value]:
            if isinstance(one, dict | list) or one is None:
                raise InvalidRequest(f"{name} is {show(one)} in work; it must be a number or a text.")
            if name in known:  # others are told by name, as in a file
                _value(known[name], one if isinstance(one, str) else json.dumps(one))
    return table


def _number(name: str, text: str, kind: type) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0 or (kind is int and (value == math.inf or not value.is_integer())):
        rule = "a whole number of at least 0" if kind is int else "a number of at least 0"
        raise InvalidRequest(f"{name} is {show(text)}; it must be {rule}.")
    return kind(value)  # type: ignore[no-any-return]


def _check_text(parameter: Parameter, text: str) -> None:
    """No name is a path: files are read from whoever asks, never from this machine."""
    if parameter.choices and text not in parameter.choices:
        raise InvalidRequest(f"{parameter.name} is {show(text)}; it must be one of {', '.join(parameter.choices)}.")
    if any(letter < " " for letter in text):
        raise InvalidRequest(f"{parameter.name} is {show(text)}; it must be a line of text.")
    if parameter.name in ("model", "draft_model") and names_file(text):
        raise InvalidRequest(
            f"{parameter.name} is {show(text)}; files of the server are not read. Drop the file on the page, or POST "
            "it to /api/model."
        )
    if parameter.name in ("gpu", "decode_gpu", "gpus", "have", "consider") and ".toml" in text.casefold():
        raise InvalidRequest(
            f"{parameter.name} is {show(text)}; files of the server are not read. Give a name, or changes of one such "
            'as "H100, mem_gib=96".'
        )


def _columns(without: Sequence[str] = (), many: Sequence[str] = ()) -> tuple[Parameter, ...]:
    """The columns of a request as parameters, but model, gpu, those that name files and those of `without`."""
    return tuple(
        Parameter(
            column.name,
            column.metadata["kind"],
            None if column.default is MISSING else column.default,
            TRACE if column.name == "trace" else column.metadata["help"],
            many=column.name in many,
            most=MOST.get(column.name, math.inf),
            column=True,
        )
        for column in columns()
        if column.name not in ("model", "gpu", *FILES, *without)
    )


def _pools() -> tuple[Parameter, ...]:
    """What pools for prefill and decode are asked by."""
    degrees = {
        "tp": "GPUs that share each layer of a worker.",
        "pp": "Its stages of layers.",
        "ep": "Its shares of the experts.",
        "attention_dp": "Its groups of tp GPUs with sequences of their own.",
    }
    of_pools = ("prefill", "decode")
    shared = ("input_len", "output_len", "dtype", "kv_dtype", "engine", "link", "node_link", "request_rate")
    return (
        *(Parameter(f"{pool}_{name}", int, 1, degrees[name], most=MOST[name]) for pool in of_pools for name in degrees),
        *(Parameter(f"{pool}_workers", int, 0, "0 finds the number.", most=MOST["dp"]) for pool in of_pools),
        Parameter("n_gpus", int, 0, "GPUs to split for the most tokens per second.", most=MOST["n_gpus"]),
        Parameter("concurrency", int, 0, "Clients that wait for their answers.", most=MOST["concurrency"]),
        Parameter("max_ttft_s", float, 0.0, "Highest mean seconds to the first token; 0: any."),
        Parameter("max_tpot_s", float, 0.0, "Highest seconds between tokens; 0: any."),
        Parameter("max_prefill_load", float, 0.9, "Highest share of what prefill workers can take.", most=1.0),
        Parameter("link_gb_per_s", float, 0.0, "Link between the pools, GB/s per GPU and direction; 0: 50, or PCIe."),
        *(one for one in _columns() if one.name in shared),
    )


def _of_ops() -> tuple[Parameter, ...]:
    """What an operator call is asked by: its family, and the fields of all families, each in those that have it."""
    having: dict[str, list[str]] = {}
    for kind in FAMILIES:
        for name in names_of(kind):
            having.setdefault(name, []).append(kind.family)
    return (
        Parameter("family", str, None, "The operator.", tuple(kind.family for kind in FAMILIES), needed=True),
        *(
            Parameter(name, str if name in TEXT_FIELDS else float, None, f"Of {', '.join(families)}.")
            for name, families in having.items()
        ),
        GPU,
        Parameter("engine", str, SERVES, f"Who runs it: {', '.join(measured_engines())} …"),
    )


TRACE = "Requests as they came: the id that POST /api/trace gave."
PRICES = Parameter("prices", str, "", "Prices of your own: the id that POST /api/prices gave.")
MODEL = Parameter("model", str, None, "Model name, hub id, or the id that POST /api/model gave.", needed=True)
GPU = Parameter("gpu", str, None, "GPU name or MIG slice (H100:3g.40gb); repeat to compare.", many=True, needed=True)
GPUS = Parameter("gpus", str, "all", "all, a segment (data-centre …), or names, some counted: H100,8xH200.")
SHORT = Parameter("short", bool, False, "Of a list only names and sizes.")
EXPLAIN = Parameter("explain", bool, False, "Add every operator: time, bound, what limits it.")


@cache
def questions() -> Mapping[str, Question]:
    """All questions by name."""
    inference = ("inference", *CHOICES["method"])
    listed = (
        Question(
            "predict",
            "Latency, throughput and memory of a model on GPUs.",
            "predict --json",
            (MODEL, GPU, EXPLAIN, PRICES, *_columns()),
        ),
        Question(
            "train",
            "An optimizer step of a model on GPUs; with train_tokens or dataset_rows hours, price and energy.",
            "predict --phase train --json",
            (MODEL, GPU, EXPLAIN, PRICES, *_columns(("phase",))),
        ),
        Question(
            "memory",
            "Whether a run fits in memory, how surely, and what would make it fit.",
            "memory --json",
            (
                MODEL,
                GPU,
                Parameter("mode", str, "inference", "inference, or training: full, lora or qlora.", inference),
                *_columns(("phase", "method")),
            ),
        ),
        Question(
            "compare",
            "One question put to many GPUs: ranked, with the probability that one beats the next.",
            "compare --json",
            (
                MODEL,
                GPUS,
                Parameter("sort", str, "", "usd_per_mtok, tokens_per_s, ttft_s, tpot_s, tokens_per_s_per_w …"),
                Parameter("fit_only", bool, False, "Only GPUs with room in memory."),
                PRICES,
                *_columns(("n_gpus",)),
            ),
        ),
        Question(
            "plan",
            "Which GPUs, how many, and how they are set, to serve a load within what is promised, at the least cost.",
            "plan --json",
            (
                MODEL,
                GPUS,
                Parameter("ttft_p99", float, math.inf, "Seconds to the first token that 99 in 100 requests keep."),
                Parameter("tpot", float, math.inf, "Seconds between tokens, in the mean."),
                Parameter("e2e", float, math.inf, "Seconds to the last token, in the mean."),
                Parameter("p_slo", float, 0.8, "Probability with which these are kept."),
                Parameter("max_gpus", int, 0, "GPUs at most, in all.", most=MOST["max_gpus"]),
                Parameter("budget", float, math.inf, "USD per hour at most."),
                Parameter("dtype", str, "", "Number formats to try: bf16,fp8; by default the model's, and fp8."),
                Parameter("engine", str, "", "Engines to try; by default what suits the GPU, and others of the best."),
                Parameter("tp", str, "", "GPUs that share each layer, to try: 1,2,4; by default from the fewest."),
                Parameter("top", int, 10, "Plans that are shown.", most=MOST["top"]),
                Parameter("vary", bool, True, "Try the best on other engines and settings, too."),
                Parameter("files", bool, False, "Add the files of each plan, as --write writes them, by their names."),
                PRICES,
                *_columns(DECIDED),
            ),
        ),
        Question(
            "sweep",
            "A model on one GPU, for every combination of the columns that are given several times.",
            "sweep",
            (
                MODEL,
                GPU._replace(many=False, text="GPU name or MIG slice."),
                PRICES,
                *_columns(many=[c.name for c in columns() if c.name not in SENT]),
            ),
        ),
        Question(
            "quality",
            "Scores of models, as lm-evaluation-harness wrote them, beside cost, latency and memory.",
            "quality --json",
            (
                Parameter(
                    *("scores", str, None, "Scores of a model: the id that POST /api/scores gave; repeat to compare."),
                    many=True,
                    needed=True,
                ),
                GPU._replace(text="GPU name, maybe with a count: 2xL4; repeat to compare."),
                Parameter("task", str, "", "TASK[:METRIC[,FILTER]] that is the quality; repeat for a mean.", many=True),
                Parameter("as", str, "", "ID=MODEL:DTYPE: what scores are of, where it cannot be told.", many=True),
                PRICES,
                *_columns(SCORED),
            ),
        ),
        Question(
            "upgrade",
            "Other GPUs in place of those one has: ratios of speed, room and cost over a mix of work.",
            "upgrade --json",
            (
                Parameter("have", str, None, "The GPUs one has: 8xA100.", needed=True),
                Parameter("consider", str, None, "Those in their place: 4xH200,8xB200.", needed=True),
                Parameter(
                    *("work", dict, None, "A part of the mix, as JSON: share, model, columns of a request; repeat."),
                    many=True,
                    needed=True,
                ),
                PRICES,
            ),
        ),
        Question(
            "local",
            "What runs on a machine, at which quantisation, how fast.",
            "local --json",
            (
                Parameter("model", str, "", "Model to ask about; repeat. By default those of home use.", many=True),
                Parameter("gpu", str, "", "GPU, maybe counted: 2xRTX-3090. By default those of the server's machine."),
                Parameter("engine", str, "", "Engine; by default llama.cpp."),
                Parameter("dtype", str, "", "Formats to try, the widest first: q8_0,q4_k_m."),
                *(one for one in _columns() if one.name in ("input_len", "output_len")),
            ),
        ),
        Question(
            "disaggregated",
            "Serving with prefill and decode on GPUs of their own: how many workers match, and what they do.",
            "disaggregated --json",
            (
                MODEL,
                GPU._replace(many=False, text="GPU of the prefill workers."),
                Parameter("decode_gpu", str, "", "GPU of the decode workers; by default the same."),
                *_pools(),
            ),
        ),
        Question("op", "One operator call on GPUs.", "op FAMILY --json", _of_ops()),
        Question(
            "gpus",
            "The catalogue of GPUs, or one of them.",
            "gpus --json",
            (
                Parameter("gpu", str, "", "A GPU; by default all."),
                Parameter("vendor", str, "", "Only GPUs of this vendor."),
                Parameter("segment", str, "", "Only of this segment: data-centre, workstation, consumer, laptop …"),
                SHORT,
            ),
        ),
        Question(
            "models",
            "The models that are known by name, or one of them.",
            "models --json",
            (MODEL._replace(needed=False, text="A model; by default all."), SHORT),
        ),
        Question(
            "prices",
            "What GPUs cost: dated list prices, and where each is from.",
            "prices --json",
            (
                GPU._replace(needed=False, text="By default every GPU with a price; repeat for more."),
                Parameter("provider", str, "", "Only of this provider."),
                Parameter("region", str, "", "Only in this region, by the provider's name for it."),
                Parameter("kind", str, "", "Only on-demand, community, purchase, reserved or spot."),
                Parameter("n_gpus", int, 1, "Price of so many GPUs, in whole instances.", most=MOST["n_gpus"]),
                PRICES,
            ),
        ),
        Question(
            "ledger",
            "Errors of operators that were held out when the bundle was made: means over cells of its ledger.",
            "evaluate --ledger",
            (
                Parameter("gpu", str, "", "Only this GPU; by default the means over cells."),
                Parameter("family", str, "", "Only this operator family."),
            ),
        ),
        Question(
            "validated",
            "What whole answers reached on runs that others measured, by engine and GPU.",
            "validate",
            (
                Parameter("gpu", str, "", "Only runs on this GPU, or where there are none on others of its kind."),
                Parameter("engine", str, "", "Only runs of this engine."),
                Parameter("phase", str, "", "Only of serving, or of training.", ("serve", "train")),
            ),
        ),
    )
    return {question.name: question for question in listed}
