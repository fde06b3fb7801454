"""Sweeps: every combination once, rules that leave out what they say, and clear words for what is wrong."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pandas as pd
import pytest

from predictor.cli import main
from predictor.errors import InvalidRequest
from predictor.estimators.bundle import load_bundle
from predictor.prediction.jobs.batch import MANIFEST, run
from predictor.prediction.jobs.sweep import read_spec
from predictor.prediction.rows import answer_row

SPEC = """
[request]
model = ["Llama-3.1-8B", "Qwen3-8B"]
gpu = ["H100", "L4", "V100"]
dtype = ["bf16", "fp8"]
tp = {from = 1, to = 8, times = 2}
[[together]]
input_len = [100, 3000]
output_len = [10, 20]
[[skip]]
gpu = "V100"
dtype = "fp8"
[[skip]]
tp = {above = 2}
gpu = {not = ["H100"]}
"""


def spec(folder: Path, text: str = SPEC) -> Path:
    file = folder / "sweep.toml"
    file.write_text(text)
    return file


def table(file: Path, rows: int = 1000) -> pd.DataFrame:
    return pd.concat([piece.to_pandas() for piece in read_spec(file).chunks(rows)], ignore_index=True)


@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
def test_every_combination_that_no_rule_skips_is_there_once_and_in_order(rows: int, tmp_path: Path) -> None:
    kept = [
        (model, gpu, dtype, tp, *lengths)
        for model, gpu, dtype, tp, lengths in itertools.product(
            ("Llama-3.1-8B", "Qwen3-8B"), ("H100", "L4", "V100"), ("bf16", "fp8"), (1, 2, 4, 8), ((100, 10), (3000, 20))
        )
        if not (gpu == "V100" and dtype == "fp8") and not (tp > 2 and gpu != "H100")
    ]
    found = table(spec(tmp_path), rows)
    assert [tuple(row) for row in found.itertuples(index=False)] == kept
    assert list(found) == ["model", "gpu", "dtype", "tp", "input_len", "output_len"]
    grid = read_spec(spec(tmp_path))
    assert grid.combinations == 96 and grid.combinations - sum(grid.skipped()) == len(kept)


def test_a_huge_grid_is_counted_and_begun_without_being_made(tmp_path: Path) -> None:
    text = SPEC.replace(
        "tp =", "batch = {from = 1, to = 100000, step = 1}\nseq_len = {from = 1, to = 1000, step = 1}\ntp =", 1
    )
    grid = read_spec(spec(tmp_path, text))
    assert grid.combinations == 96 * 10**8 and sum(grid.skipped()) == 10**8 * sum(read_spec(spec(tmp_path)).skipped())
    assert next(grid.chunks(10)).num_rows == 10


def test_n_gpus_of_a_rule_is_the_product_of_the_degrees(tmp_path: Path) -> None:
    degrees = "tp = [1, 4, 8]\ndp = [1, 2, 4]\n[[skip]]\nn_gpus = {above = 8}"
    text = f'[request]\nmodel = "Llama-3.1-8B"\ngpu = "H100"\n{degrees}'
    found = table(spec(tmp_path, text))
    assert len(found) == 7 - 1 and (found["tp"] * found["dp"]).max() == 8


def test_a_sweep_is_answered_like_its_rows(tmp_path: Path) -> None:
    summary = run(read_spec(spec(tmp_path)), tmp_path / "out.parquet", n_jobs=1, rows_per_part=20)
    found, asked = pd.read_parquet(tmp_path / "out.parquet"), table(spec(tmp_path))
    assert summary.rows == len(found) == len(asked) and list(found["error"].notna()) == list(found["tpot_s"].isna())
    for at in (0, 17, 30):
        assert answer_row(asked.iloc[at].to_dict(), load_bundle())["tpot_s"] == found["tpot_s"][at]


def test_answers_that_are_not_wanted_are_left_out_and_counted(tmp_path: Path) -> None:
    text = '[request]\nmodel = ["Llama-3.1-8B", "Llama-3.1-70B"]\ngpu = ["L4", "H100", "A100"]\ndtype = "fp8"'
    plain = spec(tmp_path, text)
    run(read_spec(plain), tmp_path / "all.parquet", n_jobs=1)
    everything = pd.read_parquet(tmp_path / "all.parquet")
    wanted = everything[everything["error"].isna() & (everything["fits"] == True)]  # noqa: E712
    chosen = spec(tmp_path, f"skip_unfit = true\nskip_invalid = true\n{text}")
    summary = run(read_spec(chosen), tmp_path / "some.parquet", n_jobs=1, strict=True)
    found = pd.read_parquet(tmp_path / "some.parquet")
    pd.testing.assert_frame_equal(found, wanted.reset_index(drop=True), check_dtype=False)
    assert summary.dropped == {"unfit": 2, "invalid": 2} and summary.rows == 6 and not summary.failed


def test_a_sweep_goes_on_and_with_another_spec_is_refused(tmp_path: Path) -> None:
    run(read_spec(spec(tmp_path)), tmp_path / "out", n_jobs=1, rows_per_part=30)
    assert json.loads((tmp_path / "out" / MANIFEST).read_text())["input"][0][0] == "sweep.toml"
    (tmp_path / "out" / "part-000001.json").unlink()
    summary = run(read_spec(spec(tmp_path)), tmp_path / "out", n_jobs=1, rows_per_part=30)
    assert summary.kept == summary.parts - 1
    with pytest.raises(InvalidRequest, match="was begun with another input"):
        run(read_spec(spec(tmp_path, SPEC + "\n")), tmp_path / "out", n_jobs=1, rows_per_part=30)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("[request]", "[reqest]", "there is no key reqest; did you mean request?"),
        ("[request]", "skip_unfit = 1\n[request]", "skip_unfit is 1; it must be true or false"),
        ("tp =", "pt =", "there is no setting pt"),
        ('"L4"', '"L5"', 'no GPU called "L5"'),
        ('"Qwen3-8B"', '"Qwen9-8B"', "Qwen9-8B"),
        ("[100, 3000]", "[100]", "[[together]] 1: input_len has 1, output_len has 2 values; give each as many."),
        ("[100, 3000]", "[]", "input_len is an empty list; give a value."),
        ("[100, 3000]", "[100, 0]", "input_len is 0; it must be"),
        ("[100, 3000]", '["100", 3]', "input_len is '100'; it must be a number without quotes."),
        ('["bf16", "fp8"]', "[8]", "dtype is 8; it must be text in quotes."),
        ("input_len =", "tp = [1, 2]\ninput_len =", "tp is given twice"),
        ("times = 2", "times = 1", "tp: such a range has no end"),
        ("from = 1", "from = 9", "tp: from is 9, above to, which is 8; turn them round."),
        ("times = 2", "by = 2", "tp has keys from, to, by; a range is {from = 1, to = 64, times = 2}"),
        ("above = 2", "over = 2", "[[skip]] 2: tp has over; a condition is a value, a list, or has above"),
        ("above = 2", 'above = "2"', "[[skip]] 2: tp: above is '2'; it must be a number."),
        ('gpu = "V100"', "pp = 2", "[[skip]] 1: the sweep does not set pp; give it in [request]"),
        ('gpu = "V100"', "gpu = {above = 2}", "[[skip]] 1: gpu is text, which has no order; name its values."),
        ("[[skip]]\ngpu", "[skip]\ngpu", "is not valid TOML"),
        ('gpu = ["H100", "L4", "V100"]', "", "there is no gpu; give one or a list of them in [request]."),
    ],
)
def test_what_is_wrong_with_a_spec_is_said(before: str, after: str, said: str, tmp_path: Path) -> None:
    assert before in SPEC
    with pytest.raises(InvalidRequest) as caught:
        read_spec(spec(tmp_path, SPEC.replace(before, after, 1)))
    assert said in str(caught.value) and "sweep.toml" in str(caught.value)


def test_a_spec_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"cannot read .*no\.toml"):
        read_spec(tmp_path / "no.toml")


def test_the_command_shows_counts_and_the_first_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(spec(tmp_path)), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "= 96 combinations" in said and "[[skip]] 1 leaves out 16" in said and "the first rows" in said
    assert main(["sweep", str(spec(tmp_path))]) == 2
    assert "there is no --out" in capsys.readouterr().err
    none = spec(tmp_path, SPEC + "[[skip]]\ntp = {at_least = 1}")
    assert main(["sweep", str(none), "--out", str(tmp_path / "x.parquet")]) == 2
    assert "leaves no row" in capsys.readouterr().err
    small = spec(tmp_path, '[request]\nmodel = "Llama-3.1-8B"\ngpu = ["H100", "L4"]')
    assert main(["sweep", str(small), "--out", str(tmp_path / "x.csv"), "--jobs", "1"]) == 0
    assert len(pd.read_csv(tmp_path / "x.csv")) == 2
