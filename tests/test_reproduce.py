"""Every figure of the pages has a command, and where that replays measurements, it still says what is printed."""

import os
import re
from pathlib import Path

import pandas as pd
import pytest
from test_docs import FENCED, PAGES, anchors, name_of

from predictor import load_bundle
from predictor.cli import main
from predictor.errors import InvalidRequest
from predictor.learning.validation import tables
from predictor.learning.validation.claims import Claim, Errors, Line, claims

REPO = Path(__file__).resolve().parents[1]
TRUTH = Path(os.environ.get("PREDICTOR_TRUTH", REPO.parent / "shared" / "truth"))
REPLAYED = [claim for claim in claims().values() if claim.lines]
# An error of so many per cent, or a range of them; 80 % is the level of intervals, and 0.1 % the least P(OOM) shown.
PER_CENT = re.compile(r"(?<![\d.])(?!(?:80|0\.1) %)\d+(?:\.\d+)? %")
ERROR_WORDS = re.compile(r"\b(off|error|errors|median|interval|intervals|came true|too fast|too slow)\b")
COMMAND = re.compile(r"`(predictor|make|python|training/|benchmarks/)[^`]*`")
SUMMED_UP = re.compile(
    r"\]\((?:docs/)?(?:accuracy|reproduce)\.md|training/EXPERIMENTS\.md"
)  # what refers to where the figure has its command
# Of a page that says how things are read, or of another's words.
NOT_OURS = {"docs/accuracy.md#on-measurements-that-were-never-at-hand"}  # which no command repeats, as the page says
NO_FIGURES = {"CHANGELOG.md", "docs/commands.md", "docs/columns.md", "docs/python.md", "docs/reproduce.md"}


def sections(page: Path) -> dict[str, str]:
    """Texts of a page without its code, by the anchor of the heading that they stand under."""
    found, text = {}, FENCED.sub("", page.read_text(encoding="utf-8"))
    for part in re.split(r"^(?=#+ )", text, flags=re.MULTILINE):
        heading, _, body = part.partition("\n")
        slug = re.sub(r"[^\w\- ]", "", heading.lstrip("# ").strip().lower()).replace(" ", "-")
        found[slug] = body
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_figures_of_errors_have_a_command(page: Path) -> None:
    if name_of(page) in NO_FIGURES or page.is_relative_to(REPO / "models"):
        pytest.skip("tells no figures of its own")
    named = {claim.where for claim in claims().values()}
    bare = []
    for anchor, body in sections(page).items():
        told = [block for block in body.split("\n\n") if PER_CENT.search(block) and ERROR_WORDS.search(block)]
        if f"{name_of(page)}#{anchor}" in named | NOT_OURS or COMMAND.search(body) or SUMMED_UP.search(body):
            continue
        bare += [f"{name_of(page)}#{anchor}: {block[:200]}" for block in told]
    assert not bare, "figures without a command: " + " | ".join(bare)


@pytest.mark.parametrize("claim", claims().values(), ids=lambda claim: claim.name)
def test_claims_name_what_is_there(claim: Claim) -> None:
    page, _, anchor = claim.where.partition("#")
    assert not anchor or anchor in anchors(REPO / page)
    for line in claim.run:
        first, second = line.split()[:2]
        assert first in ("predictor", "make") or (REPO / second).is_file()
    for line in claim.lines:
        assert line.label in (REPO / page).read_text(encoding="utf-8") or claim.name in ("cards",)


@pytest.mark.parametrize("claim", REPLAYED, ids=lambda claim: claim.name)
def test_what_is_printed_comes_out_again(claim: Claim, data_root: Path) -> None:
    if not TRUTH.is_dir():
        pytest.skip(f"the measured tables are not at {TRUTH}; set PREDICTOR_TRUTH")
    rows = claim.replayed(TRUTH, data_root, load_bundle())
    for line in claim.lines:
        assert line.errors.same_as(line.now(rows)), f"{line.label}; run `python docs/figures.py {claim.name}`"


def test_rows_are_chosen_by_any_of_the_alternatives() -> None:
    rows = pd.DataFrame(
        {
            "table": "t",
            "metric": "tpot_s",
            "gpu": ["A", "A", "B", "C"],
            "engine": ["vllm", "trtllm", "trtllm", "vllm"],
            "measured": 1.0,
            "predicted": [1.1, 1.2, 1.3, 1.4],
            "low": 1.0,
            "high": 2.0,
            "fitted": [False, False, False, False],
        }
    )
    either = [{"gpu": ["A"], "engine": ["vllm"]}, {"gpu": ["B"]}]
    line = Line("some", ["t"], ["tpot_s"], Errors(2, 20.0, 20.0, 100), either)
    assert line.now(rows) == pytest.approx((2, 20.0, 20.0, 100))
    assert line.now(rows.assign(fitted=[True, False, False, False])).rows == 1
    with pytest.raises(InvalidRequest, match="no replayed row"):
        line.now(rows.assign(table="u"))


def test_the_command_lists_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce"]) == 0
    assert "serving under load" in capsys.readouterr().out
    assert main(["reproduce", "nothing"]) == 2
    assert "no figures are called" in capsys.readouterr().err
    assert main(["reproduce", "cards", "--truth", str(tmp_path)]) == 2
    assert "is not there; give --truth" in capsys.readouterr().err
    assert main(["reproduce", "front"]) == 0
    assert "$ predictor evaluate --ledger" in capsys.readouterr().out


def test_replays_are_all_told() -> None:
    """A published table whose replay no page tells is a hidden number."""
    named = {line.partition("--only ")[2] for claim in claims().values() for line in claim.run}
    assert not {table.name for table in tables.TABLES} - named
