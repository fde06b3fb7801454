"""Scores of lm-evaluation-harness beside cost: read as they stand, compared only where they are alike.

The files are written here in the published form of versions 0.3 and 0.4; their numbers are made up.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from predictor.cli import main
from predictor.errors import InvalidRequest
from predictor.planning.evaluations import read_evaluations
from predictor.planning.pareto import pareto_front
from predictor.planning.quality import quality
from predictor.workloads.models import get_model

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
MMLU = {"acc,none": 0.6, "acc_stderr,none": 0.004, "alias": "mmlu"}
GSM8K = {
    "alias": "gsm8k",
    "exact_match,strict-match": 0.5,
    "exact_match_stderr,strict-match": 0.01,
    "exact_match,flexible-extract": 0.55,
    "exact_match_stderr,flexible-extract": 0.01,
}
CROWS = {
    "alias": "crows_pairs_english",
    "likelihood_diff,none": 3.5,
    "likelihood_diff_stderr,none": 0.1,
    "pct_stereotype,none": 0.62,
    "pct_stereotype_stderr,none": 0.012,
}
BBQ = {
    "alias": "bbq",
    "acc,none": 0.5,
    "acc_stderr,none": 0.002,
    "amb_bias_score,none": 0.1,
    "disamb_bias_score,none": 0.02,
}


def written(
    file: Path, results: dict[str, Any], arguments: Any = f"pretrained={LLAMA},dtype=bfloat16", **more: Any
) -> Path:
    content = {
        "results": results,
        "group_subtasks": {"mmlu": ["mmlu_stem"]},
        "versions": dict.fromkeys(results, 1.0),
        "n-shot": {task: 5 for task in results if task != "mmlu"} | {"mmlu_stem": 5},
        "higher_is_better": {task: {"acc": True, "exact_match": True, "pct_stereotype": False} for task in results},
        "config": {"model": "hf", "model_args": arguments, "limit": None},
    }
    file.write_text(json.dumps(content | more), encoding="utf-8")
    return file


# What files say


def test_scores_are_read_as_they_stand(tmp_path: Path) -> None:
    (one,) = read_evaluations([written(tmp_path / "a.json", {"mmlu": MMLU, "mmlu_stem": MMLU, "gsm8k": GSM8K})])
    assert one.model == get_model(LLAMA) and one.name == "Llama-3.1-8B-Instruct" and one.format == "bf16"
    mmlu = one.main("mmlu")
    assert (mmlu.value, mmlu.stderr, mmlu.shots, mmlu.version, mmlu.rises) == (0.6, 0.004, 5, "1", True)
    assert one.main("gsm8k").filter == "strict-match"
    assert one.score("gsm8k", "exact_match", "flexible-extract").value == 0.55
    assert one.heads == ("mmlu", "gsm8k")
    assert one.main("hellaswag") is None


def test_files_of_version_0_3_are_read(tmp_path: Path) -> None:
    content = {
        "results": {"boolq": {"acc": 0.7, "acc_stderr": 0.01}, "wikitext": {"word_perplexity": 9.1}},
        "versions": {"boolq": 1, "wikitext": 1},
        "config": {"model": "hf-causal", "model_args": f"pretrained={LLAMA}", "num_fewshot": 2, "limit": None},
    }
    (tmp_path / "old.json").write_text(json.dumps(content), encoding="utf-8")
    (one,) = read_evaluations([tmp_path / "old.json"])
    boolq, wikitext = one.main("boolq"), one.main("wikitext")
    assert (boolq.value, boolq.stderr, boolq.shots, boolq.version, boolq.rises) == (0.7, 0.01, 2, "1", True)
    assert wikitext.rises is False and wikitext.stderr is None


def test_what_was_not_computed_is_no_score(tmp_path: Path) -> None:
    glue = {"cola": {"mcc,none": 0.4, "mcc_stderr,none": "N/A"}, "rte": {"acc,none": float("nan")}, "glue": {" ": " "}}
    (one,) = read_evaluations([written(tmp_path / "a.json", glue)])
    assert [score.task for score in one.scores] == ["cola"]
    assert one.main("cola").stderr is None


@pytest.mark.parametrize(
    ("results", "metric", "scale"),
    [
        ({"wmt16-de-en": {"bleu,none": 31.2, "bleu_stderr,none": 0.4, "chrf,none": 57.0}}, "bleu", 100),
        ({"humaneval": {"pass@1,create_test": 0.31, "pass@1_stderr,create_test": 0.03}}, "pass@1", 1),
        ({"mbpp": {"pass_at_1,none": 0.4}}, "pass_at_1", 1),
        ({"my_translation": {"bertscore_f1,none": 0.93}}, "bertscore_f1", 1),
        ({"truthfulqa_gen": {"bleu_acc,none": 0.4}}, "bleu_acc", 1),
        ({"mrpc": {"acc,none": 0.7, "f1,none": 0.8}}, "acc", 1),
    ],
    ids=str,
)
def test_metrics_of_many_kinds(results: dict[str, Any], metric: str, scale: float, tmp_path: Path) -> None:
    (one,) = read_evaluations([written(tmp_path / "a.json", results, higher_is_better={})])
    score = one.main(next(iter(results)))
    assert (score.metric, score.scale, score.rises) == (metric, scale, True)


# Which model, in which format


@pytest.mark.parametrize(
    ("arguments", "config", "dtype"),
    [
        (f"pretrained={LLAMA},dtype=float16", {}, "fp16"),
        (f"pretrained={LLAMA},dtype=auto", {"model_dtype": "torch.bfloat16"}, "bf16"),
        (f"pretrained={LLAMA}", {}, ""),
        (f"pretrained={LLAMA},load_in_4bit=True", {}, "nf4"),
        (f"pretrained={LLAMA},load_in_8bit=True", {}, "int8"),
        (f"pretrained={LLAMA},load_in_4bit=False,dtype=bfloat16", {}, "bf16"),
        (f"pretrained={LLAMA},quantization=fp8", {}, "fp8"),
        (f"pretrained={LLAMA},quantization=awq_marlin,dtype=float16", {}, "int4_wo"),
        (f"pretrained={LLAMA},autogptq=True", {}, "int4_wo"),
        ({"pretrained": LLAMA, "dtype": "bfloat16"}, {}, "bf16"),
        ("pretrained=Qwen/Qwen2.5-7B-Instruct-AWQ,dtype=float16", {}, ""),
        ("pretrained=Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8", {"model_dtype": "torch.float16"}, ""),
    ],
    ids=str,
)
def test_the_number_format_is_told_by_the_arguments(
    arguments: Any, config: dict[str, str], dtype: str, tmp_path: Path
) -> None:
    whole = {"model_args": arguments, "limit": None, **config}
    (one,) = read_evaluations([written(tmp_path / "a.json", {"mmlu": MMLU}, arguments, config=whole)])
    assert one.dtype == dtype
    if "AWQ" in str(arguments):
        assert one.format == "int4_wo"


def test_what_is_told_by_hand_comes_first(tmp_path: Path) -> None:
    file = written(tmp_path / "a.json", {"mmlu": MMLU}, "pretrained=/data/my-model")
    (one,) = read_evaluations([file], [f"{file}=Llama-3.1-8B:fp8"])
    assert (one.asked, one.dtype) == ("Llama-3.1-8B", "fp8")
    (one,) = read_evaluations([file], [f"{file}=Llama-3.1-8B"])
    assert one.dtype == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("pretrained=/data/my-model", "of which no sizes are known .*--as FILE=MODEL:DTYPE"),
        ("", "does not say which model it is of; say which with --as"),
        (f"pretrained={LLAMA},quantization=marvellous", "quantization=marvellous.*--as"),
        (f"pretrained={LLAMA},dtype=float7", "dtype=float7, which is not known; say which with --as"),
    ],
)
def test_what_cannot_be_told_is_an_error_with_its_cure(arguments: str, message: str, tmp_path: Path) -> None:
    file = written(tmp_path / "a.json", {"mmlu": MMLU}, arguments)
    with pytest.raises(InvalidRequest, match=message):
        read_evaluations([file])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", 'has no "results"'),
        ('{"results": [1]}', 'has no "results"'),
        ('{"results": {"mmlu": {"alias": "mmlu"}}}', "has no score"),
    ],
)
def test_what_is_no_result_file_says_so(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(InvalidRequest, match=message):
        read_evaluations([tmp_path / "a.json"])


def test_a_name_that_is_no_file_and_a_format_that_is_none(tmp_path: Path) -> None:
    file = written(tmp_path / "a.json", {"mmlu": MMLU})
    with pytest.raises(InvalidRequest, match="which is none of the files"):
        read_evaluations([file], ["b.json=Llama-3.1-8B"])
    with pytest.raises(InvalidRequest, match="must be one of"):
        read_evaluations([file], [f"{file}=Llama-3.1-8B:fp7"])
    with pytest.raises(InvalidRequest, match="write FILE=MODEL:DTYPE"):
        read_evaluations([file], ["Llama-3.1-8B"])


def test_files_of_one_model_are_put_together_and_must_agree(tmp_path: Path) -> None:
    one, two = written(tmp_path / "1.json", {"mmlu": MMLU}), written(tmp_path / "2.json", {"gsm8k": GSM8K})
    (both,) = read_evaluations([one, two])
    assert both.heads == ("mmlu", "gsm8k") and len(both.files) == 2
    other = written(tmp_path / "3.json", {"mmlu": MMLU | {"acc,none": 0.7}})
    with pytest.raises(InvalidRequest, match="different scores of mmlu acc"):
        read_evaluations([one, other])
    base = written(tmp_path / "4.json", {"mmlu": MMLU | {"acc,none": 0.7}}, "pretrained=meta-llama/Llama-3.1-8B")
    assert len(read_evaluations([one, base])) == 2  # a fine-tune and its base are two


# What is compared


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    better = MMLU | {"acc,none": 0.7}
    return [
        written(tmp_path / "a.json", {"mmlu": MMLU, "gsm8k": GSM8K, "crows_pairs_english": CROWS, "bbq": BBQ}),
        written(
            tmp_path / "b.json", {"mmlu": MMLU, "crows_pairs_english": CROWS}, f"pretrained={LLAMA},quantization=fp8"
        ),
        written(tmp_path / "c.json", {"mmlu": better, "gsm8k": GSM8K}, "pretrained=Qwen/Qwen3-14B,dtype=bfloat16"),
    ]


def test_quality_is_what_all_files_have_and_the_front_is_of_it(files: list[Path]) -> None:
    found = quality(files, "H100", batch=8)
    assert found.axis.text == "mmlu acc"
    assert [row.quality for row in found.rows] == [0.7, 0.6, 0.6]
    assert all(row.quality_stderr == 0.004 for row in found.rows)
    places = [(-row.quality, row.row["usd_per_mtok"], row.row["tpot_s"]) for row in found.rows]
    assert [row.front for row in found.rows] == pareto_front(places)
    assert {row.evaluated.format for row in found.rows if row.front} == {"bf16", "fp8"}
    assert found.audits == ("crows_pairs_english", "bbq") and found.heads == ("mmlu", "gsm8k")


def test_a_score_that_is_absent_is_none_and_makes_no_mean(files: list[Path]) -> None:
    found = quality(files, "H100", tasks=["mmlu", "gsm8k:exact_match,flexible-extract"])
    by_format = {(row.evaluated.name, row.evaluated.format): row for row in found.rows}
    assert by_format["Llama-3.1-8B-Instruct", "bf16"].quality == pytest.approx((0.6 + 0.55) / 2)
    assert by_format["Llama-3.1-8B-Instruct", "bf16"].quality_stderr == pytest.approx((0.004**2 + 0.01**2) ** 0.5 / 2)
    absent = by_format["Llama-3.1-8B-Instruct", "fp8"]
    assert absent.quality is None and not absent.front and found.rows[-1] is absent


def test_other_shots_or_versions_are_not_compared_silently(tmp_path: Path) -> None:
    one = written(tmp_path / "1.json", {"mmlu": MMLU, "gsm8k": GSM8K})
    two = written(
        tmp_path / "2.json",
        {"mmlu": MMLU, "gsm8k": GSM8K},
        "pretrained=Qwen/Qwen3-14B",
        **{"n-shot": {"mmlu_stem": 0, "gsm8k": 5}},
    )
    found = quality([one, two], "H100")
    assert found.axis.text == "gsm8k exact_match (strict-match)"
    assert "mmlu acc is 5-shot, version 1 and 0-shot, version 1: no part of the mean." in found.notes
    with pytest.raises(InvalidRequest, match="5-shot, version 1 and 0-shot, version 1, which cannot be compared"):
        quality([one, two], "H100", tasks=["mmlu"])
    newer = written(tmp_path / "3.json", {"mmlu": MMLU}, "pretrained=Qwen/Qwen3-14B", versions={"mmlu": 2})
    assert quality([one, newer], "H100").axis is None


def test_scales_that_have_no_mean_are_refused(tmp_path: Path) -> None:
    results = {"mmlu": MMLU, "wmt16-de-en": {"bleu,none": 31.0}, "wikitext": {"word_perplexity,none": 9.0}}
    file = written(tmp_path / "a.json", results)
    with pytest.raises(InvalidRequest, match="have no common scale and no mean"):
        quality([file], "H100", tasks=["mmlu", "wmt16-de-en"])
    with pytest.raises(InvalidRequest, match="have no common scale and no mean"):
        quality([file], "H100", tasks=["mmlu", "wikitext"])
    assert quality([file], "H100", tasks=["wikitext"]).axis.rises is False
    found = quality([file], "H100")
    assert found.axis.text == "mmlu acc"
    assert any("wmt16-de-en bleu is of 0 to 100" in note for note in found.notes)


@pytest.mark.parametrize("task", ["crows_pairs_english", "bbq", "bbq:acc"])
def test_an_audit_of_bias_is_no_quality(task: str, files: list[Path]) -> None:
    with pytest.raises(InvalidRequest, match="audits bias, which is no quality"):
        quality(files, "H100", tasks=[task])
    (one, *_) = read_evaluations(files)
    stereotype = one.score("crows_pairs_english", "pct_stereotype", "")
    assert stereotype.neutral == 0.5 and stereotype.rises is None  # whatever the file says of better
    assert one.score("bbq", "amb_bias_score", "").neutral == 0.0 and one.score("bbq", "acc", "").rises is True


def test_a_run_on_a_part_of_its_tasks_says_so(tmp_path: Path) -> None:
    config = {"model_args": f"pretrained={LLAMA}", "limit": 100.0}
    file = written(tmp_path / "a.json", {"mmlu": MMLU}, config=config)
    assert any("was run with limit 100" in note for note in quality([file], "H100").notes)


# The command


def test_the_command_shows_scores_cost_and_audits(files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quality", *map(str, files), "--gpu", "H100", "--batch", "8"]) == 0
    shown = capsys.readouterr().out
    assert "0.700 ± 0.004" in shown and "$/Mtok" in shown and "Audits of bias, no part of quality" in shown
    assert "0.5 is neutral" in shown and "–" in shown


def test_json_has_every_score_and_the_front(files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quality", *map(str, files), "--gpu", "H100", "--gpu", "2xL4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["quality"] == "mmlu acc" and len(told["rows"]) == 6
    keys = {"model", "dtype", "gpus", "quality", "quality_stderr", "front", "scores", "files"}
    assert all(keys <= set(row) for row in told["rows"])
    assert {"usd_per_mtok", "usd_per_mtok_low", "ttft_s", "tpot_s_high", "memory_bytes", "p_oom"} <= set(
        told["rows"][0]
    )


def test_a_gpu_that_cannot_run_one_says_why(files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quality", str(files[1]), "--gpu", "V100", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["error"] and row["quality"] == 0.6 and row["front"] is False


def test_quality_is_drawn(files: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'gpu-predictor[plot]'")
    assert main(["quality", *map(str, files), "--gpu", "H100", "--plot", str(tmp_path / "q.svg")]) == 0
    shown = (tmp_path / "q.svg").read_text(encoding="utf-8")
    assert "Qwen3-14B, bf16" in shown and "USD per million tokens" in shown
