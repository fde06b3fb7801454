"""Reads what lm-evaluation-harness wrote of a model (results_….json of its versions 0.3 and 0.4): scores as they stand.

Versions name a score "acc" (0.3) or "acc,none" (0.4: metric and filter), its standard error "acc_stderr" or
"acc_stderr,none"; shots, task versions and which way is better stand beside, each by task. See docs/interface.md and
lm_eval/evaluator.py of https://github.com/EleutherAI/lm-evaluation-harness.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from predictor.errors import InvalidRequest, UnknownModel
from predictor.files import read_json
from predictor.ops.dtypes import DTYPES, LISTED
from predictor.workloads.models import Model, get_model, names_file

# Tasks that audit bias: what they measure is no quality, and most of it has no better end. BBQ: Parrish et al.,
# arXiv:2110.08193; CrowS-Pairs: Nangia et al., arXiv:2010.00133, where 0.5 of the pairs is neutral.
AUDITS = ("bbq", "crows_pairs", "simple_cooccurrence_bias", "toxigen", "winogender")
NEUTRAL: Mapping[str, float] = {"pct_stereotype": 0.5, "likelihood_diff": 0.0, "bias_score": 0.0}
# Which way is better where a file does not say, as before 0.4.3; by how the name of the metric starts.
MORE = ("acc", "f1", "em", "exact", "mcc", "bleu", "chrf", "bert", "pass@", "pass_at_", "mc1", "mc2", "rouge")
LESS = ("ppl", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "ter", "brier_score")
HUNDREDS = ("bleu", "chrf", "ter", "rouge")  # metrics of 0 to 100; those that end in _acc are shares
LARGEST = 1e300  # of a score
NO_SCORES = ("alias", "name", "samples", "sample_len", "sample_count", " ")
FLOATS: Mapping[str, str] = {
    **dict.fromkeys(("bfloat16", "bf16"), "bf16"),
    **dict.fromkeys(("float16", "half", "fp16"), "fp16"),
    **dict.fromkeys(("float32", "float", "fp32"), "fp32"),
}
QUANTIZATIONS: Mapping[str, str] = {
    **dict.fromkeys(("awq", "awq_marlin", "gptq", "gptq_marlin"), "int4_wo"),
    **dict.fromkeys(("fp8", "fbgemm_fp8"), "fp8"),
    "bitsandbytes": "nf4",
}
CURE = "say which with --as FILE=MODEL:DTYPE"


class UntoldModel(InvalidRequest):
    """Scores whose model, or its number format, nobody can tell."""


@dataclass(frozen=True, slots=True)
class Score:
    """One figure of a task.

    filter: of answers, such as "strict-match"; "" where there is none. stderr: None where the file has none. shots:
    examples in the prompt; None: not said, or several. rises: whether more is better; None: nobody says, or neither is.
    audit: of bias, no part of any quality. neutral: the value without bias. scale: the best value.
    """

    task: str
    metric: str
    filter: str
    value: float
    stderr: float | None
    shots: int | None
    version: str
    rises: bool | None
    audit: bool
    neutral: float | None
    scale: float

    @property
    def name(self) -> str:
        """ "gsm8k exact_match (strict-match)"."""
        return f"{self.task} {self.metric}" + (f" ({self.filter})" if self.filter else "")

    @property
    def setting(self) -> str:
        """What has to be alike for two scores to be compared."""
        shots = "shots not said" if self.shots is None else f"{self.shots}-shot"
        return f"{shots}, version {self.version or 'not said'}"

    def row(self) -> dict[str, Any]:
        """As a flat row."""
        return {
            "task": self.task,
            "metric": self.metric,
            "filter": self.filter or None,
            "value": self.value,
            "stderr": self.stderr,
            "n_shot": self.shots,
            "version": self.version or None,
            "higher_is_better": self.rises,
            "audit": self.audit,
            "neutral": self.neutral,
        }


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What files say of one model in one number format.

    name: of what was evaluated, adapters included. asked: how a request names the model. dtype: of a request, "" for
    the model's own. heads: tasks that are no part of a group with a score. notes: what limits the worth of the scores.
    """

    files: tuple[str, ...]
    name: str
    asked: str
    model: Model
    dtype: str
    scores: tuple[Score, ...]
    heads: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def format(self) -> str:
        """The number format of the weights."""
        return self.dtype or getattr(self.model, "linear_dtype", "") or "bf16"

    def main(self, task: str) -> Score | None:
        """The figure of a task that its file has first."""
        return next((score for score in self.scores if score.task == task), None)

    def score(self, task: str, metric: str, filter: str) -> Score | None:
        """A figure; filter "": the first."""
        return next((s for s in self.scores if (s.task, s.metric) == (task, metric) and filter in ("", s.filter)), None)


def read_evaluations(
    files: Sequence[Path | str], stated: Sequence[str] = (), elsewhere: bool = False
) -> list[Evaluated]:
    """Of each model and number format what the files say of it, in their order; files of one are put together.

    stated: FILE=MODEL:DTYPE or FILE=MODEL, in place of what a file says of its model. elsewhere: the files are of
    another machine, whose paths are not looked up on this one. Raises InvalidRequest for what is no result file, as
    UntoldModel for a model or format that nobody can tell, and where two files have other scores of one task.
    """
    given = dict(_stated(text) for text in stated)
    if unread := [name for name in given if name not in {str(file) for file in files}]:
        raise InvalidRequest(f'--as names "{unread[0]}", which is none of the files; write the path as it is given.')
    found: dict[tuple[str, str], Evaluated] = {}
    for file in files:
        one = _read(Path(file), given.get(str(file), ""), elsewhere)
        key = one.name, one.format
        found[key] = _together(found[key], one) if key in found else one
    return list(found.values())


def _stated(text: str) -> tuple[str, str]:
    file, equals, named = text.partition("=")
    if not equals or not named or not file:
        raise InvalidRequest(f'--as is "{text}"; write FILE=MODEL:DTYPE, such as results.json=Llama-3.1-8B:fp8.')
    return file, named


def _together(one: Evaluated, other: Evaluated) -> Evaluated:
    known = {(score.task, score.metric, score.filter): score for score in one.scores}
    for score in other.scores:
        if known.get((score.task, score.metric, score.filter), score) != score:
            both = " and ".join(f'"{file}"' for file in (*one.files, *other.files))
            raise InvalidRequest(
                f"{both} have different scores of {score.name} for {one.name} in {one.format}; give one."
            )
    return replace(
        one,
        files=(*one.files, *other.files),
        scores=tuple(dict.fromkeys((*one.scores, *other.scores))),
        heads=tuple(dict.fromkeys((*one.heads, *other.heads))),
        notes=tuple(dict.fromkeys((*one.notes, *other.notes))),
    )


def _read(file: Path, stated: str, elsewhere: bool) -> Evaluated:
    content = read_json(file, "give a results_….json", InvalidRequest)
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict) or not all(isinstance(scores, dict) for scores in results.values()):
        raise InvalidRequest(
            f'"{file}" has no "results" by task; give the results_….json of lm-evaluation-harness (--output_path).'
        )
    scores = tuple(score for task in results for score in _scores(task, results[task], content))
    if not scores:
        raise InvalidRequest(f'"{file}" has no score; give a results_….json of a run that ended.')
    scored = {score.task for score in scores}
    inner = {part for group in scored for part in _subtasks(group, content)}
    name, asked, model, dtype, notes = _model(file, content, stated, elsewhere)
    heads = tuple(task for task in results if task in scored and task not in inner)
    return Evaluated((str(file),), name, asked, model, dtype, scores, heads, (*notes, *_limits(file, content)))


def _part(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = content.get(name)
    return found if isinstance(found, dict) else {}


def _subtasks(group: str, content: Mapping[str, Any]) -> list[str]:
    """Tasks of a group, whose names are texts."""
    listed = _part(content, "group_subtasks").get(group)
    return [part for part in listed if isinstance(part, str)] if isinstance(listed, list) else []


def _scores(task: str, figures: Mapping[str, Any], content: Mapping[str, Any]) -> Iterator[Score]:
    """Every number of a task that is a score; what was not computed is none."""
    better = _part(content, "higher_is_better").get(task)
    version = _part(content, "versions").get(task)
    stated = _part(_part(_part(content, "configs"), task), "metadata").get("version")
    version = stated if version is None else version
    for key, value in figures.items():
        metric, _, name = key.partition(",")
        if key in NO_SCORES or metric.endswith("_stderr") or not _is_number(value):
            continue
        error = figures.get(f"{metric}_stderr,{name}" if name else f"{metric}_stderr")
        audit = task.startswith(AUDITS) or metric == "pct_stereotype" or "bias_score" in metric
        neutral = next((zero for part, zero in NEUTRAL.items() if part in metric), None) if audit else None
        told = better.get(metric) if isinstance(better, dict) else None
        yield Score(
            task=task,
            metric=metric,
            filter="" if name == "none" else name,
            value=float(value),
            stderr=float(error) if _is_number(error) else None,
            shots=_shots(task, content, ()),
            version="" if version is None else f"{version:g}" if _is_number(version) else str(version),
            rises=None if neutral is not None else told if isinstance(told, bool) else _rises(metric),
            audit=audit,
            neutral=neutral,
            scale=100.0 if _of_a_hundred(task, metric) else 1.0,
        )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _rises(metric: str) -> bool | None:
    return False if metric.startswith(LESS) else True if metric.startswith(MORE) else None


def _of_a_hundred(task: str, metric: str) -> bool:
    return (metric.startswith(HUNDREDS) or task.startswith("squad")) and not metric.endswith("_acc")


def _shots(task: str, content: Mapping[str, Any], groups: tuple[str, ...]) -> int | None:
    """Examples in the prompt; of a group those of its tasks where they are alike. groups: in which it is."""
    shots = _part(content, "n-shot")
    parts = [part for part in _subtasks(task, content) if part not in (*groups, task)]
    if isinstance(shots.get(task), int):
        return int(shots[task])
    if parts:
        of_parts = {_shots(part, content, (*groups, task)) for part in parts}
        return of_parts.pop() if len(of_parts) == 1 else None
    stated = None if shots else _part(content, "config").get("num_fewshot")
    return stated if isinstance(stated, int) else None


def _limits(file: Path, content: Mapping[str, Any]) -> Iterator[str]:
    limit = _part(content, "config").get("limit")
    if limit is not None:
        yield f'"{file}" was run with limit {limit}, on a part of each task; its scores are not those of whole tasks.'


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """model_args, a text of pairs or an object."""
    given = config.get("model_args")
    if isinstance(given, dict):
        return given
    pairs = (pair.partition("=") for pair in str(given or "").split(","))
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def _model(
    file: Path, content: Mapping[str, Any], stated: str, elsewhere: bool
) -> tuple[str, str, Model, str, tuple[str, ...]]:
    """(name of what was evaluated, name for a request, model, number format, notes) of a file."""
    config = _part(content, "config")
    arguments = _arguments(config)
    if stated:
        named, _, dtype = stated.rpartition(":") if ":" in stated else (stated, "", "")
        if dtype and dtype not in DTYPES:
            raise InvalidRequest(
                f'--as gives "{dtype}" as the number format of "{file}"; it must be one of {", ".join(LISTED)}.'
            )
        model = get_model(named)
        return _short(named, model), named, model, dtype or _dtype(file, config, arguments, model), ()
    name = str(arguments.get("pretrained") or content.get("model_name") or arguments.get("model") or "")
    if not name:
        raise UntoldModel(f'"{file}" does not say which model it is of; {CURE}.')
    if elsewhere and names_file(name):
        raise UntoldModel(f'"{file}" is of "{name}", a path of the machine that it is from; {CURE}.')
    try:
        model = get_model(name)
    except UnknownModel as error:
        raise UntoldModel(f'"{file}" is of "{name}", of which no sizes are known ({error}); {CURE}.') from error
    adapter = arguments.get("peft") or arguments.get("delta")
    notes = (
        (f'"{file}" has the adapter {adapter}; speed and memory are of {model.name} with it merged.',)
        if adapter
        else ()
    )
    called = _short(name, model) + (f" + {adapter}" if adapter else "")
    return called, name, model, _dtype(file, config, arguments, model), notes


def _short(name: str, model: Model) -> str:
    """A hub id without its organisation; of a path what the model is called."""
    return (
        model.name if name.endswith((".json", ".gguf")) or name.startswith((".", "/", "~")) else name.rpartition("/")[2]
    )


def _dtype(file: Path, config: Mapping[str, Any], arguments: Mapping[str, Any], model: Model) -> str:
    """The number format that a request states; "" for the model's own."""
    method = str(arguments.get("quantization") or "").lower()
    if method in QUANTIZATIONS:
        return QUANTIZATIONS[method]
    if method not in ("", "none"):
        raise UntoldModel(f'"{file}" has quantization={method}, whose number format is not known; {CURE}.')
    if _is_on(arguments.get("load_in_4bit")):
        return "nf4"
    if _is_on(arguments.get("load_in_8bit")):
        return "int8"
    if _is_on(arguments.get("autogptq")) or _is_on(arguments.get("gptqmodel")):
        return getattr(model, "linear_dtype", "") or "int4_wo"
    if getattr(model, "linear_dtype", "") not in ("", *FLOATS):
        return ""  # the weights are quantised; what is stated is the format beside them
    said = str(arguments.get("dtype") or "auto").removeprefix("torch.").lower()
    said = str(config.get("model_dtype") or "auto").removeprefix("torch.").lower() if said == "auto" else said
    if said not in ("auto", *FLOATS):
        raise UntoldModel(f'"{file}" has dtype={said}, which is not known; {CURE}.')
    return FLOATS.get(said, "")


def _is_on(value: object) -> bool:
    """Whether an argument is set: True, or a text that says so, or a path."""
    return str(value or "").lower() not in ("", "false", "0", "none")
