"""The gate: every decision is recorded, can be read and undone, and moves a registry's alias along."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rewritten import L40S, base_bundle, rewritten, with_cell

from predictor.cli import main
from predictor.errors import InvalidBundle, InvalidRequest, InvalidStore
from predictor.estimators.bundle import MANIFEST, Bundle, load_bundle
from predictor.estimators.store import DECISIONS, champions, decisions, locked, record
from predictor.registry import mlflow_model
from predictor.registry.comparison import rules_for
from predictor.registry.promotion import Registry, champion_bundle, decide, judge, name_of


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return base_bundle(tmp_path_factory.mktemp("base"))


@pytest.fixture
def store(tmp_path: Path, base: Bundle, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store whose champion is the base."""
    folder = tmp_path / "store"
    monkeypatch.setenv("PREDICTOR_STORE", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    decision, _ = judge(base, base, rules_for(base))
    decide(replace(decision, before=name_of(load_bundle())), base, folder)
    return folder


def test_promote_and_rollback_are_one_after_the_other(store: Path, base: Bundle, tmp_path: Path) -> None:
    before, number = champion_bundle(store), len(decisions(store))
    better = rewritten(base, tmp_path / "better", lambda ledger: ledger.assign(mape=0.05))
    assert main(["promote", str(better.path), "--note", "less error"]) == 0
    shutil.rmtree(better.path)
    assert load_bundle("champion").id == "better" and load_bundle("champion").path.is_relative_to(store)
    assert main(["rollback"]) == 0
    assert champion_bundle(store) == before and load_bundle("champion") == before
    made = decisions(store)[number:]
    assert [(each.action, each.note) for each in made] == [("promote", "less error"), ("rollback", "")]
    assert made[1].after == made[0].before and made[0].after == made[1].before


def test_rollback_ends_at_the_released_bundle(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollback"]) == 0 and load_bundle("champion").id == load_bundle().id
    capsys.readouterr()
    assert main(["rollback"]) == 2
    assert capsys.readouterr().err == f"error: nothing is promoted in {store}; the champion is the released base-5.\n"


def test_a_refused_candidate_leaves_the_champion_and_a_line(
    store: Path, base: Bundle, tmp_path: Path, capsys: Any
) -> None:
    worse, before = rewritten(base, tmp_path / "worse", with_cell(L40S, mape=0.3)), champion_bundle(store)
    assert main(["promote", str(worse.path), "--dry-run"]) == 1 and len(decisions(store)) == 1
    assert "would be refused: worse" in capsys.readouterr().out
    assert main(["promote", str(worse.path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert champion_bundle(store) == before
    last = decisions(store)[-1]
    assert json.loads(json.dumps(last.to_json())) == told and last.action == "refuse" and last.before == last.after
    assert ("error", "L40S") in [(each["rule"], each["gpu"]) for each in last.reasons]
    assert main(["promote", str(worse.path), "--force", "the L40S is retired"]) == 0
    last = decisions(store)[-1]
    assert (last.action, last.forced, last.after.id) == ("promote", "the L40S is retired", "worse") and last.reasons
    assert main(["champion"]) == 0 and "the L40S is retired" in capsys.readouterr().out


def test_the_champion_is_not_promoted_twice(store: Path, base: Bundle, capsys: Any) -> None:
    assert main(["promote", str(base.path)]) == 0 and len(decisions(store)) == 1
    assert "is the champion already; nothing is recorded." in capsys.readouterr().out


def test_a_broken_bundle_is_not_promoted(store: Path, base: Bundle, tmp_path: Path, capsys: Any) -> None:
    broken = rewritten(base, tmp_path / "broken")
    (broken.path / "gemm.transfer.ubj").write_bytes(b"")
    assert main(["promote", str(broken.path)]) == 2 and len(decisions(store)) == 1
    assert "gemm.transfer.ubj is corrupt" in capsys.readouterr().err


def test_of_two_promotions_at_once_one_is_compared_again(store: Path, base: Bundle, tmp_path: Path) -> None:
    others = [rewritten(base, tmp_path / name, lambda ledger: ledger.assign(mape=0.05)) for name in "ab"]
    judged = [judge(each, champion_bundle(store), rules_for(base))[0] for each in others]
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(decide, *each, store) for each in zip(judged, others, strict=True)]
        errors = [error for each in asked if (error := each.exception())]
    assert len(errors) == 1 and isinstance(errors[0], InvalidRequest) and "compare again" in str(errors[0])
    assert len(champions(store)) == 2


def test_no_line_is_lost(store: Path) -> None:
    line = replace(decisions(store)[0], action="refuse")

    def refuse(number: int) -> None:
        with locked(store):
            record(replace(line, note=str(number)), store)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(refuse, range(40)))
    assert {each.note for each in decisions(store)[1:]} == {str(number) for number in range(40)}


def test_a_damaged_store_is_said(store: Path, base: Bundle, tmp_path: Path, capsys: Any) -> None:
    file = store / DECISIONS
    whole = file.read_text()
    file.write_text(whole + whole[:50])
    with pytest.raises(InvalidStore) as raised:
        load_bundle("champion")
    assert str(raised.value) == f"{file}, line 2 is cut off or no decision; remove that line or restore the file."
    file.write_text(whole)
    copy = load_bundle("champion").path
    (copy / MANIFEST).write_text((copy / MANIFEST).read_text() + " ")
    with pytest.raises(InvalidBundle, match="is not the promoted base"):
        load_bundle("champion")
    shutil.rmtree(copy)
    assert main(["promote", str(base.path)]) == 2
    assert f"{copy} of the promoted bundle base" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--margin", "-1"], "margin is -1 points; it must be from 0 to 100."),
        (["--coverage", "0.9"], 'coverage is "0.9"; give the least and the most, such as 0.7:0.95.'),
        (["--coverage", "0.9:0.7"], "coverage is 0.9:0.7; give the least and the most, such as 0.7:0.95."),
        (["--force", " "], 'force is " "; say why a refused bundle is promoted.'),
        (["--data", "nowhere.csv"], "nowhere.csv does not exist; give a Parquet or CSV file of measurements."),
    ],
)
def test_what_cannot_be_is_said(store: Path, base: Bundle, arguments: list[str], error: str, capsys: Any) -> None:
    assert main(["promote", str(base.path), *arguments]) == 2
    assert capsys.readouterr().err == f"error: {error}\n"


def test_the_alias_goes_back_where_the_store_fails(
    store: Path, base: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves: list[str] = []

    def move(uri: str, name: str, version: str) -> str:
        moves.append(version)
        return "3"

    def full(decision: object, store: Path) -> None:
        raise InvalidStore("no space")

    monkeypatch.setattr(mlflow_model, "registered", lambda uri, name, bundle: "4")
    monkeypatch.setattr(mlflow_model, "move_champion", move)
    monkeypatch.setattr("predictor.registry.promotion.record", full)
    better = rewritten(base, tmp_path / "better", lambda ledger: ledger.assign(mape=0.05))
    decision, _ = judge(better, base, rules_for(base))
    with pytest.raises(InvalidStore):
        decide(decision, better, store, Registry("http://me:secret@host", "gpus"))
    assert moves == ["4", "3"] and champion_bundle(store).id == "base"
    assert Registry("http://me:secret@host", "gpus").entry("4")["tracking_uri"] == "http://host"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    mlflow = pytest.importorskip("mlflow", reason="pip install 'gpu-predictor[train]'")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    yield f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(before)


def test_the_alias_of_the_registry_moves_along(
    store: Path, base: Bundle, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import mlflow

    def at() -> str:
        return str(mlflow.MlflowClient().get_model_version_by_alias("gpus", "champion").version)

    better = rewritten(base, tmp_path / "better", lambda ledger: ledger.assign(mape=0.05))
    registry = ["--tracking-uri", server, "--name", "gpus"]
    assert main(["promote", str(base.path), *registry]) == 0 and at() == "1"
    assert main(["promote", str(better.path), *registry]) == 0 and at() == "2"
    loaded = mlflow.pyfunc.load_model("models:/gpus@champion")
    answer = loaded.predict(pd.DataFrame({"model": ["Llama-3.1-8B"], "gpu": ["L4"]}))
    assert answer["tpot_s"].notna().all() and answer["bundle"].tolist() == ["better"]
    assert main(["rollback", *registry]) == 0 and at() == "1"
    assert main(["promote", str(better.path), *registry]) == 0 and at() == "2"
    assert decisions(store)[-1].registry == {"name": "gpus", "version": "2", "tracking_uri": server}
    capsys.readouterr()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # which mlflow set
    assert main(["rollback"]) == 0 and at() == "2"
    assert "alias champion of gpus" in capsys.readouterr().err
