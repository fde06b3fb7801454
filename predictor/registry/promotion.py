"""Promote a bundle to champion if the comparison lets it, go back to the champion before, and record both.

With MLflow the registry's alias `champion` moves too: first the alias, then the store, and where the store cannot be
written the alias goes back, so that one does not move without the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from predictor.errors import InvalidRequest, InvalidStore
from predictor.estimators.bundle import DEFAULT_BUNDLE, Bundle, champion_folder, load_bundle
from predictor.estimators.store import (
    PROMOTE,
    REFUSE,
    ROLLBACK,
    Decision,
    Name,
    champions,
    decisions,
    folder_of,
    keep,
    locked,
    record,
)
from predictor.files import sha256_of
from predictor.registry import mlflow_model
from predictor.registry.comparison import Comparison, Rules, compare


class Registry(NamedTuple):
    """A registered model of an MLflow server."""

    tracking_uri: str
    name: str

    def entry(self, version: str) -> dict[str, str]:
        """What a decision keeps of it; passwords in the address are left out."""
        uri = re.sub(r"//[^/]*@", "//", self.tracking_uri)
        return {"name": self.name, "version": version, "tracking_uri": uri}


def name_of(bundle: Bundle) -> Name:
    """How decisions name a bundle."""
    return Name(bundle.id, bundle.sha256)


def champion_bundle(store: Path) -> Bundle:
    """The champion of a store; the released default where nothing is promoted."""
    return load_bundle(champion_folder(store))


def judge(candidate: Bundle, champion: Bundle, rules: Rules, data: Path | None = None) -> tuple[Decision, Comparison]:
    """The decision on a candidate; nothing is recorded."""
    read_all(candidate)
    comparison = compare(champion, candidate, rules, data)
    before, name = name_of(champion), name_of(candidate)
    decision = Decision(
        time=_now(),
        action=REFUSE if comparison.reasons else PROMOTE,
        candidate=name,
        before=before,
        after=before if comparison.reasons else name,
        package=version("gpu-predictor"),
        path=str(candidate.path),
        margin=rules.margin,
        coverage=(rules.low, rules.high),
        data={"name": data.name, "sha256": sha256_of(data)} if data else None,
        cells=len(comparison.common),
        reasons=tuple(reason.to_json() for reason in comparison.reasons),
    )
    return decision, comparison


def forced(decision: Decision, why: str) -> Decision:
    """A refusal overruled; its reasons stay."""
    if not why.strip():
        raise InvalidRequest(f'force is "{why}"; say why a refused bundle is promoted.')
    if decision.action == PROMOTE:
        return decision
    return replace(decision, action=PROMOTE, after=decision.candidate, forced=why)


def decide(decision: Decision, candidate: Bundle, store: Path, registry: Registry | None = None) -> Decision:
    """Carry a decision out and record it; returns it as recorded. The champion must still be the one it was made on."""
    if decision.action == REFUSE:
        with locked(store):
            record(decision, store)
        return decision
    if decision.candidate == decision.before:
        if registry:
            mlflow_model.move_champion(*registry, mlflow_model.registered(*registry, candidate))
        return decision
    copy = load_bundle(keep(candidate.path, decision.candidate, store))
    if name_of(copy) != decision.candidate:
        raise InvalidStore(f"{copy.path} is not {decision.candidate}; remove that folder and promote again.")
    read_all(copy)
    return _moved(decision, copy, store, registry)


def rollback(store: Path, note: str = "", registry: Registry | None = None) -> Decision:
    """Go back to the champion before; raises where nothing is promoted."""
    names = champions(store)
    if not names:
        raise InvalidRequest(f"nothing is promoted in {store}; the champion is the released {DEFAULT_BUNDLE}.")
    before = names[-1]
    opened = load_bundle(folder_of(names[-2], store) if len(names) > 1 else DEFAULT_BUNDLE)
    decision = Decision(
        time=_now(),
        action=ROLLBACK,
        candidate=before,
        before=before,
        after=name_of(opened),
        package=version("gpu-predictor"),
        note=note,
    )
    return _moved(decision, opened, store, registry)


def left_behind(store: Path) -> str:
    """Says where a registry's alias is still at another bundle than the champion; "" where it is not."""
    moves = [decision for decision in decisions(store) if decision.action != REFUSE]
    last = next((decision for decision in reversed(moves) if decision.registry), None)
    if last is None or last.registry is None or last.after == moves[-1].after:
        return ""
    entry = last.registry
    where = f"{entry['name']} at {entry['tracking_uri']}"
    return f"alias champion of {where} is still at version {entry['version']}, {last.after}."


def read_all(bundle: Bundle) -> None:
    """Read every estimator, so that a bundle with a broken file raises."""
    for name in bundle.manifest["estimators"]:
        bundle.estimator(name)


def _moved(decision: Decision, bundle: Bundle, store: Path, registry: Registry | None) -> Decision:
    made = mlflow_model.registered(*registry, bundle) if registry else ""
    with locked(store):
        names = champions(store)
        now = names[-1] if names else name_of(load_bundle(DEFAULT_BUNDLE))
        if now != decision.before:
            raise InvalidRequest(f"the champion became {now} meanwhile, it was {decision.before}; compare again.")
        if registry is None:
            record(decision, store)
            return decision
        decision = replace(decision, registry=registry.entry(made))
        with _alias_at(registry, made):
            record(decision, store)
    return decision


@contextmanager
def _alias_at(registry: Registry, made: str) -> Iterator[None]:
    """Move the alias; where what follows fails, move it back."""
    before = mlflow_model.move_champion(*registry, made)
    try:
        yield
    except BaseException:
        mlflow_model.move_champion(*registry, before)
        raise


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
