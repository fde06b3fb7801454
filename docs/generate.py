"""Writes the pages that say what the code says: docs/commands.md, docs/columns.md, docs/python.md, docs/reproduce.md,
and the table of whole models in docs/accuracy.md.

python docs/generate.py            write them
python docs/generate.py --check    status 1 if one of them is not what the code says now
"""

from __future__ import annotations

import argparse
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import MISSING
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import typer

import predictor
from predictor import cli
from predictor.learning.validation.claims import Line, claims
from predictor.workloads.engine_tables import having
from predictor.workloads.engines import engines
from predictor.workloads.results import RESULTS as ANSWERED

HERE = Path(__file__).resolve().parent
NOTE = "<!-- Written by docs/generate.py from the code; change the code, then run it again. -->"
# What the columns of an answer are; RESULTS of the package has their names and order.
RESULTS = {
    "ttft_s": "time to first token, seconds, under load the mean over requests; where one pass is all, its time",
    "tpot_s": "time per output token after the first, seconds; empty where nothing is generated",
    "e2e_s": "time of a whole request, seconds",
    "step_s": "time of one optimizer step, seconds; training only",
    "ttft_p50_s": "median of TTFT over requests, seconds; continuous scheduling only, as the next three",
    "ttft_p99_s": "99th percentile of TTFT, seconds",
    "tpot_p50_s": "median of TPOT over requests, seconds",
    "tpot_p99_s": "99th percentile of TPOT, seconds",
    "tokens_per_s": "tokens per second over all GPUs: generated, trained on, or put in where nothing is generated",
    "tokens_per_s_per_gpu": "the same for each GPU",
    "requests_per_s": "requests per second over all GPUs; continuous scheduling only",
    "sustainable_rate": "requests per second that the deployment holds for ever; continuous scheduling only",
    "saturated": "whether more is asked than it holds: queues grow, or clients wait for room",
    "host_s": "of e2e_s, the time in which the GPU waits for the host, seconds",
    "mfu": "model FLOPs over the time at the dense peak, of adapters without gradients of frozen weights; training",
    "memory_bytes": "most memory that a GPU needs, bytes",
    "p_oom": "probability that a GPU needs more memory than it has",
    "fits": "whether it is expected to fit, a serving engine to start with room for all that is asked at once",
    "host_memory_bytes": "most memory that the host of a node needs, loading or training, bytes; training only",
    "max_kv_tokens": "tokens, in sequences as long as asked, that the cache of a serving engine holds on each GPU",
    "max_concurrent_requests": "sequences as long as asked for which all caches have room at once",
    "usd_per_mtok": "price of a million tokens, US dollars; empty where the GPU's price is not known",
    "price_source": "whose price that is, when it was listed and where; `given` where usd_per_hour is",
    "train_hours": "hours of the whole training, where train_tokens or dataset_rows says its length; as the next two",
    "train_usd": "its price, US dollars; empty where the GPU's price is not known",
    "train_kwh": "energy of its GPUs times pue, kWh; empty where their power limit is not known",
    "n_gpus": "GPUs in all; a table that has the column keeps it where it is, filled in where a cell is empty",
    "limiter": "what most of the time is limited by: compute, memory, link, launch …",
    "basis": "whether the GPU was measured: seen-gpu, calibrated-gpu, unseen-gpu, engine-rates, bound-only",
    "nearest_gpu": "the measured GPU that is nearest",
    "bundle": "the estimators that answered",
    "notes": "what to know about the answer, sentences between ` | `; empty where there is nothing",
    "error": "why the row was not answered; empty where it was",
}
OP_RESULTS = {
    "predicted_s": "time of the call, seconds",
    "bound_s": "the least time that physics allows, seconds",
    "limiter": RESULTS["limiter"],
    "basis": RESULTS["basis"],
    "bundle": RESULTS["bundle"],
    "error": RESULTS["error"],
}
WHOLE_MODELS = ("<!-- whole models -->", "<!-- /whole models -->")
KINDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}
ENDS = {"_low": "low end of its interval", "_high": "high end of its interval"}


def main() -> None:
    """Write the pages, or say which are out of date."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if a page is out of date")
    check = parser.parse_args().check
    old = list(drifted())
    for path, text in old:
        if check:
            print(f"docs/{path.name} is not what the code says; run `python docs/generate.py`.", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote docs/{path.name}")
    if check and old:
        sys.exit(1)


def drifted() -> Iterator[tuple[Path, str]]:
    """The pages whose files differ from what the code says now, with what it says."""
    for name, page in PAGES.items():
        path, text = HERE / name, page()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            yield path, text


def commands_page() -> str:
    """Every command with its arguments, options and their defaults."""
    program = typer.main.get_command(cli._app())
    tops = [(name, _subcommand(program, name)) for name in program.list_commands(None)]
    lines = [
        "# Commands",
        "Every command and option. `predictor COMMAND --help` says the same in the terminal. A wrong input ends with "
        "one line on stderr and status 2; status 1 means that a command worked and found something wrong.",
        _table(["command", "what it does"], [[f"[`{name}`](#{name})", _first(command)] for name, command in tops]),
    ]
    for name, command in tops:
        lines += _command(name, command, 2)
        for family in command.list_commands(None) if hasattr(command, "list_commands") else ():
            lines += _command(f"{name} {family}", _subcommand(command, family), 3)
    return _page(lines)


def _subcommand(group: Any, name: str) -> Any:
    return group.get_command(None, name)


def _command(words: str, command: Any, level: int) -> list[str]:
    """Heading, usage, help and options of one command."""
    shown = [one for one in command.params if not getattr(one, "hidden", False) and one.name != "help"]
    arguments = [one for one in shown if one.param_type_name == "argument"]
    options = [one for one in shown if one.param_type_name == "option"]
    usage = [
        "predictor",
        words,
        *(_argument(one) for one in arguments),
        *(f"{_flag(one)} {_metavar(one)}".strip() for one in options if one.required),
        "[OPTIONS]" if not hasattr(command, "list_commands") else "FAMILY",
    ]
    lines = [f"{'#' * level} {words}", f"```\n{' '.join(usage)}\n```", _prose(command.help or "")]
    rows = [[f"`{_argument(one)}`", _help(one)] for one in arguments]
    rows += [[f"`{f'{_flag(one)} {_metavar(one)}'.strip()}`", _help(one)] for one in options]
    return [*lines, _table(["option", "what it is"], rows)] if rows else lines


def _argument(parameter: Any) -> str:
    name = parameter.metavar or str(parameter.name).upper()
    return name if parameter.required else f"[{name}]"


def _flag(parameter: Any) -> str:
    return " / ".join([*parameter.opts, *parameter.secondary_opts])


def _metavar(parameter: Any) -> str:
    """What stands after a flag: nothing after a switch, else its name or its kind."""
    if parameter.is_flag:
        return ""
    if parameter.metavar:
        return str(parameter.metavar)
    kind = parameter.type_descriptor.annotation if hasattr(parameter, "type_descriptor") else str
    words = {"int": "N", "float": "X", "Path": "PATH", "str": "TEXT"}
    return next((word for name, word in words.items() if name in str(kind)), "TEXT")


def _help(parameter: Any) -> str:
    """The help of a parameter, what it is by default, and whether it is required or may be repeated."""
    default = parameter.default
    parts = [_cell(getattr(parameter, "help", "") or "")]
    if parameter.required and parameter.param_type_name == "option":
        parts.append("Required.")
    if getattr(parameter, "multiple", False):
        parts.append("May be repeated.")
    says_much = default is not None and default is not False and default != "" and not callable(default)
    if says_much and "by default" not in parts[0]:
        parts.append(f"Default: `{default}`.")
    if parameter.envvar:
        parts.append(f"Environment: `{parameter.envvar}`.")
    return " ".join(part for part in parts if part)


def columns_page() -> str:
    """Columns of the four tables that the package reads and writes."""
    request = import_module(predictor.Request.__module__)
    asked = [
        [f"`{c.name}`", KINDS[c.metadata["kind"]], _default(c.default), _cell(c.metadata["help"])]
        for c in request.columns()
    ]
    settings = [c.name for c in request.columns() if any(c.name in engine.settings for engine in engines().values())]
    schema, runs, op_tables = (_module(name) for name in ("schema", "runs", "op_tables"))
    return _page(
        [
            "# Columns",
            "What a table of requests holds and what comes back, what a table of measured operator calls holds, and "
            "what a table of measured runs holds. Everything is in SI units: seconds, bytes, tokens per second.",
            "## Requests",
            "One row of [a job](jobs.md), one call of `predict`, or the options of `predictor predict`, where `n_gpus` "
            "is spelled `--n-gpus`. An empty cell takes the default.",
            _table(["column", "kind", "default", "what it is"], asked),
            "A setting that the engine of a request does not have is refused; these are some engines' alone.",
            _table(["column", "engines that have it"], [[f"`{name}`", having(name)] for name in settings]),
            "## Answers",
            "What a job, `predict_frame` and `--json` add to a request. `x_low` and `x_high` are the ends of the "
            "interval of `x`, which the true value should lie in 80 times of 100. `--json` and `Report.to_dict()` "
            "have more, such as the kinds of memory; there `notes` is a list.",
            _table(["column", "what it is"], _explained(ANSWERED, RESULTS)),
            "## Operator calls",
            "A table of measured calls (`latency_s` is then required), or of calls to predict with `predictor batch "
            "--ops`. A family needs the shape columns that name it; the rest stay empty. An empty `engine`, "
            "`kernel_name` or `timing` means, in a prediction, vllm, the engine's own choice and device.",
            _table(["column", "unit", "what it is"], [[f"`{n}`", u, _cell(t)] for n, (u, t) in schema.COLUMNS.items()]),
            "## Answers about operator calls",
            _table(["column", "what it is"], _explained(op_tables.OP_RESULTS, OP_RESULTS)),
            "## Whole runs",
            "What a serving benchmark measured, as `predictor ingest` writes it and `predictor evaluate` reads it.",
            _table(["column", "unit", "what it is"], [[f"`{n}`", u, _cell(t)] for n, (u, t) in runs.COLUMNS.items()]),
        ]
    )


def _module(name: str) -> ModuleType:
    """The one module of the package whose name ends so, wherever it lies."""
    found = [m.name for m in pkgutil.walk_packages(predictor.__path__, "predictor.") if m.name.endswith(f".{name}")]
    if len(found) != 1:
        sys.exit(f"error: {len(found)} modules are called {name}; docs/generate.py must know which has the columns.")
    return import_module(found[0])


def _explained(names: Iterable[str], known: dict[str, str]) -> list[list[str]]:
    rows = []
    for name in names:
        end = next((end for end in ENDS if name.endswith(end) and name.removesuffix(end) in known), "")
        if not end and name not in known:
            sys.exit(f"error: docs/generate.py does not explain the column {name}; add it to its RESULTS.")
        rows.append([f"`{name}`", ENDS[end] if end else known[name]])
    return rows


def _default(default: Any) -> str:
    return (
        "required"
        if default is MISSING
        else f"`{default:g}`"
        if isinstance(default, float)
        else f"`{default}`"
        if default not in ("", None)
        else ""
    )


def python_page() -> str:
    """Every public name with its signature and docstring."""
    names = sorted(predictor.__all__, key=lambda name: (inspect.isclass(getattr(predictor, name)), name.lower()))
    rows = [[f"[`{name}`](#{name.lower()})", _cell(_summary(getattr(predictor, name)))] for name in names]
    lines = [
        "# Python",
        "Everything that `import predictor` gives. Names that are not here may change without notice. "
        "[The front page](../README.md#in-python) has an example that runs.",
        _table(["name", "what it is"], rows),
    ]
    for name in names:
        lines += _name(name, getattr(predictor, name))
    return _page(lines)


def _name(name: str, value: Any) -> list[str]:
    """Heading, signature, docstring and, of a class, its public methods and properties."""
    lines = [f"## {name}"]
    if sign := _signature(value):
        lines.append(f"```python\n{_folded(name + sign)}\n```")
    lines += _docstring(value)
    if not inspect.isclass(value):
        return lines
    rows = []
    for own, member in sorted(vars(value).items()):
        called = _function(member)
        if own.startswith("_") or not inspect.isfunction(called) or not (doc := inspect.getdoc(called)):
            continue
        call = "" if isinstance(member, property) else _signature(called, without_self=True)
        rows.append([f"`{own}{call}`".replace(" | ", " or "), _cell(doc.split("\n\n")[0])])
    return [*lines, _table(["method or property", "what it is"], rows)] if rows else lines


def _function(member: Any) -> Any:
    return member.fget if isinstance(member, property) else getattr(member, "__func__", member)


def _signature(value: Any, without_self: bool = False) -> str:
    """The signature as it is written in the code; "" for what has none."""
    try:
        sign = inspect.signature(value)
    except (ValueError, TypeError):
        return ""
    kept = [
        p
        for p in sign.parameters.values()
        if not p.name.startswith("_") and not (without_self and p.name in ("self", "cls"))
    ]
    kept = [p.replace(annotation=_text(p.annotation), default=_shown(p.default)) for p in kept]
    back = (
        ""
        if sign.return_annotation in (inspect.Signature.empty, None, "None")
        else f" -> {_text(sign.return_annotation)}"
    )
    text = str(
        inspect.Signature(kept, __validate_parameters__=False)
    )  # a default may stand before none where one was hidden
    return re.sub(r"'([^']*)'", r"\1", text.replace("''", '""')) + back.replace("'", "")


class _Bare:
    """Prints as the text it holds."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _text(annotation: Any) -> Any:
    """An annotation as it is written, whatever it was resolved to."""
    if annotation is inspect.Parameter.empty:
        return annotation
    if isinstance(annotation, str):
        return annotation
    return getattr(annotation, "__forward_arg__", None) or getattr(annotation, "__name__", str(annotation))


def _shown(default: Any) -> Any:
    if default is inspect.Parameter.empty:
        return default
    return (
        _Bare('"' + default + '"')
        if isinstance(default, str)
        else _Bare("…")
        if "factory" in repr(default)
        else default
    )


def _folded(text: str, width: int = 100) -> str:
    """A signature on one line, or each parameter on its own."""
    if len(text) <= width:
        return text
    head, _, rest = text.partition("(")
    inner, _, tail = rest.rpartition(")")
    depth, parts, part = 0, [], ""
    for sign in inner:
        depth += (sign in "[(") - (sign in "])")
        if sign == "," and not depth:
            parts, part = [*parts, part.strip()], ""
        else:
            part += sign
    return f"{head}(\n" + "".join(f"    {one},\n" for one in [*parts, part.strip()]) + f"){tail}"


def _docstring(value: Any) -> list[str]:
    """A docstring as Markdown: worked examples become code, everything else stays as it is."""
    blocks = (inspect.getdoc(value) or "").split("\n\n")
    return [
        f"```python\n{block}\n```" if block.startswith(">>>") else _prose(block) for block in blocks if block.strip()
    ]


def _summary(value: Any) -> str:
    return (inspect.getdoc(value) or "").split("\n\n")[0]


def _first(command: Any) -> str:
    return _cell((command.help or "").split("\n\n")[0])


def _prose(text: str) -> str:
    """Lines of a docstring as one paragraph each, with what Markdown would take for tags or emphasis kept as text."""
    return "\n\n".join(_escaped(" ".join(block.split())) for block in text.split("\n\n"))


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split())).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Outside of `code`, what Markdown would take for a tag or for emphasis is escaped."""
    parts = re.split(r"(`[^`]*`)", text)
    signs = re.compile(r"<(?=\w)|(?<!\w)_|_(?!\w)|(?<! )\*|\*(?! )")
    return "".join(part if i % 2 else signs.sub(r"\\\g<0>", part) for i, part in enumerate(parts))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in [head, *rows]]
    return "\n".join([lines[0], "|" + " --- |" * len(head), *lines[1:]])


def _page(parts: Iterable[str]) -> str:
    title, *rest = (part for part in parts if part)
    return "\n\n".join([title, NOTE, *rest]) + "\n"


def reproduce_page() -> str:
    """Every figure's page, command and needs."""

    def told(run: Sequence[str]) -> str:
        return "; ".join(f"`{line}`" for line in run)

    rows = [
        [f"`{one.name}`", f"[{one.says}]({_from_docs(one.where)})", told(one.run), one.needs or "–", f"{one.minutes:g}"]
        for one in claims().values()
    ]
    return _page(
        [
            "# Reproduce",
            "Every figure of [README.md](../README.md) and of these pages has a command. `predictor reproduce NAME` "
            "runs it; what is printed in [accuracy](accuracy.md) it compares with what comes out now, row by row, and "
            "ends with status 1 where that is something else. `predictor reproduce` lists the names.",
            "Needs: **truth**, the published tables of whole models (`--truth` or `PREDICTOR_TRUTH`); **sources**, "
            "clones of the repositories in [datasets](../datasets/README.md) (`--sources` or `PREDICTOR_DATA`); "
            "**clone**, this project's repository, from whose root the command runs. Minutes are of two cores.",
            _table(["name", "what", "command", "needs", "minutes"], rows),
            "What was tried on the way, dead ends included, is in [experiments](../training/EXPERIMENTS.md), with the "
            "date; those numbers are of the code of that day.",
        ]
    )


def _from_docs(where: str) -> str:
    """A link from this folder to a page named from the root."""
    return where.removeprefix("docs/") if where.startswith("docs/") else f"../{where}"


def accuracy_page() -> str:
    """docs/accuracy.md with the lines of whole models as the catalogue of figures has them."""
    text = (HERE / "accuracy.md").read_text(encoding="utf-8")
    start, end = WHOLE_MODELS
    head, _, rest = text.partition(start)
    _, _, tail = rest.partition(end)
    lines = [_measured(line) for one in claims().values() if one.where.endswith("#whole-models") for line in one.lines]
    names = ["measured", "rows", "error", "in the interval", "held out, base-4", "in the interval"]
    return f"{head}{start}\n\n{_table(names, lines)}\n\n{end}{tail}"


def _measured(line: Line) -> list[str]:
    errors = line.errors
    error = f"{errors.median:.1f} / {errors.mean:.1f} % {line.remark}".rstrip()
    within = f"{errors.within:.0f} % {line.within_remark}".rstrip()
    return [line.label, str(errors.rows), error, within, line.held_out, line.held_out_within]


PAGES: dict[str, Callable[[], str]] = {
    "accuracy.md": accuracy_page,
    "reproduce.md": reproduce_page,
    "commands.md": commands_page,
    "columns.md": columns_page,
    "python.md": python_page,
}

if __name__ == "__main__":
    main()
