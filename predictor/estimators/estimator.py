"""One estimator: what is known of an op's latency on a GPU, from measurements of that GPU, of its kin, or of others.

transfer: trees that correct floor plus work and know no GPU by name, monotone in every resource time; they speak for
    any GPU. reference: trees that know each measured GPU by name and bend freely; what they say of one GPU is carried
    to another by the physical ratio of the two. core: floor plus slope times work, no trees.
    line: floor plus slope times the bare bound.
On a measured GPU the reference speaks alone; for others of its architecture it is carried over; for the rest all four
are mixed, with weights picked on held-out generations. Where a user measured a few calls on a GPU, what they teach
(predictor.estimators.correction.process) is added; it depends on the call alone, so a worse variant of that GPU stays
worse. More tokens never make a call faster (predictor.estimators.envelope), nor does a worse GPU: transfer, core and
the ratio rise, the reference does not know the asked GPU, and measured GPUs of its architecture that are better or
worse in every spec limit what is said of others (predictor.hardware.dominance).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictor.errors import InvalidBundle, UnsupportedDtype
from predictor.estimators.correction.kernel import LEAF_TREES, Traits
from predictor.estimators.correction.process import Correction
from predictor.estimators.envelope import Knots, rising
from predictor.estimators.features import Features, Setting, features, groups, kernels_of, names_kernels, stand_in
from predictor.estimators.linear import Floors, Line, core_s, inputs, line_s
from predictor.estimators.mixture import Mixture, Views, call_size, mix, weights_of
from predictor.estimators.told import Memory, Told, fingerprint
from predictor.hardware.dominance import comparable
from predictor.hardware.gpu import Gpu, get_gpu
from predictor.hardware.roofline import roofline
from predictor.hardware.siblings import is_far, is_measured, memory_kind, outsiders, tiers
from predictor.ops import Op
from predictor.ops.base import one_name, text_column
from predictor.ops.dtypes import Array, Text

if TYPE_CHECKING:
    import xgboost

# Share of what calls of a sibling teach that is applied. With a generation held out and 100 rows of one of its GPUs
# measured, errors on 56 siblings fall by 18 %, on 53 of them to no more than before (training/EXPERIMENTS.md).
OF_SIBLINGS = 0.5


@dataclass(frozen=True, slots=True)
class Estimator:
    """A fitted pair of boosters of the estimator `name`, which see features `names`.

    references: measured GPU → groups of calls measured on it. weights, far: of the views on GPUs whose class was
    measured, and on others ({}: the same).
    corrections: GPU → what calls that a user measured there teach.
    """

    transfer: xgboost.Booster
    reference: xgboost.Booster
    floors: Floors
    line: Line
    references: Mapping[str, frozenset[str]]
    weights: Mixture
    names: tuple[str, ...]
    name: str
    far: Mixture = field(default_factory=dict)
    corrections: Mapping[str, Correction] = field(default_factory=dict)
    knots: Knots = field(default_factory=Knots, compare=False, repr=False)
    told: Memory = field(default_factory=Memory, init=False, compare=False, repr=False)  # never of other trees

    def latency_s(self, op: Op, gpu: Gpu, setting: Setting) -> Array:
        """Predicted seconds per call, (n_calls,); the caller holds it above the bound."""
        log_latency = rising(op, setting, lambda calls, who: self._log_latency(calls, gpu, who), self.knots, gpu)
        return np.asarray(np.exp(log_latency))

    def spread(self, op: Op, gpu: Gpu, setting: Setting) -> Array:
        """Standard deviation of log(truth / prediction) per call on a corrected GPU, (n_calls,)."""
        correction = self.corrections[gpu.name]
        predicted = self.uncorrected(op, correction.gpu, setting)
        return correction.spread(self.traits(op, correction.gpu, setting, predicted))

    def _log_latency(self, op: Op, gpu: Gpu, setting: Setting) -> Array:
        logs = self.uncorrected(op, gpu, setting)
        for correction, share in self.taught_by(gpu):
            predicted = logs if gpu == correction.gpu else self.uncorrected(op, correction.gpu, setting)
            logs = logs + share * correction.offset(self.traits(op, correction.gpu, setting, predicted))
        return logs

    def taught_by(self, gpu: Gpu) -> list[tuple[Correction, float]]:
        """Corrections that speak for a GPU and the share of each: its own, else, where nobody measured it, those of its
        siblings, which err as it does for the most part."""
        if own := self.corrections.get(gpu.name):
            return [(own, 1.0)]
        if not self.corrections or is_measured(gpu, self.references):
            return []
        siblings = tiers(gpu, self.corrections)[1]
        return [(self.corrections[name], OF_SIBLINGS / len(siblings)) for name in siblings]

    def traits(self, op: Op, gpu: Gpu, setting: Setting, predicted: Array) -> Traits:
        """What tells which measured calls a call is like, (n_calls,). predicted: their `uncorrected` log-latency."""
        table = features(op, gpu, setting)
        views = np.stack(self._views(op, gpu, setting, table), axis=1)
        views = np.where(np.isnan(views), views[:, :1], views) - predicted[:, None]
        times, fixed = table.values[:, : table.times], table.values[:, table.times :]
        place = np.concatenate(
            [times - predicted[:, None], predicted[:, None], fixed, table.tokens], axis=1, dtype=np.float64
        )
        nobody = reference_values(self._seen(table)[0], table.tokens, "", list(self.references))
        names = (text_column(setting.engine, len(op)), text_column(getattr(op, "dtype", ""), len(op)))
        return Traits(place, views, leaves_of(self.reference, nobody), *names, table.group.astype(str))

    def uncorrected(self, op: Op, gpu: Gpu, setting: Setting) -> Array:
        """Log-latency per call as the views have it, (n_calls,), before it is made to rise with tokens.

        Measured GPUs of its architecture that are better in every spec are not slower, nor are worse ones faster. Two
        measured ones that contradict that differ by the noise of their tables, and meet in the middle.
        """
        logs = self._alone(op, gpu, setting)
        better, worse = comparable(gpu, frozenset(self.references))
        if not better and not worse:
            return logs
        measured = is_measured(gpu, self.references)
        least = np.max([self._alone(op, other, setting) for other in better], axis=0, initial=-np.inf)
        most = np.min([self._alone(op, other, setting) for other in worse], axis=0, initial=np.inf)
        if measured:
            return np.asarray((np.maximum(logs, least) + np.minimum(logs, most)) / 2)
        return np.where(least <= most, np.clip(logs, least, most), (least + most) / 2)

    def _alone(self, op: Op, gpu: Gpu, setting: Setting) -> Array:
        """Log-latency per call whatever better and worse GPUs take, (n_calls,)."""
        own, siblings, _ = tiers(gpu, self.references)
        logs = np.full(len(op), np.nan)
        if is_measured(gpu, self.references):
            logs = self._referred(own, op, setting, None)
        left = np.flatnonzero(np.isnan(logs))
        if left.size:
            op, setting = op.take(left), setting.take(left)
            logs[left] = self._unmeasured(op, gpu, setting, (own, siblings))
        return logs

    def _unmeasured(self, op: Op, gpu: Gpu, setting: Setting, kin: Sequence[tuple[str, ...]]) -> Array:
        """Log-latency by the first of `kin` that knows a call, else the first that ran its kernels otherwise, else by
        the mix of all views."""
        here = self._views_here(op, gpu, features(op, gpu, setting))
        logs = np.full(len(op), np.nan)
        for names in kin:
            logs = np.where(np.isnan(logs), self._referred(names, op, setting, _between_siblings, here), logs)
        for names in kin:
            if np.isnan(logs).any():
                logs = np.where(np.isnan(logs), self._stood_in(names, op, setting, here), logs)
        left = np.flatnonzero(np.isnan(logs))
        if left.size:
            views = Views(*(view[left] for view in here))
            reference = self._among_others(gpu, op.take(left), setting.take(left), views)
            dtypes = text_column(getattr(op.take(left), "dtype", ""), len(left))
            weights = weights_of(self._mixture(gpu), memory_kind(gpu), dtypes, call_size(op)[left])
            bound_s = roofline(op.take(left), gpu).latency_s
            logs[left] = mix(views._replace(reference=reference), weights, bound_s)
        return logs

    def _mixture(self, gpu: Gpu) -> Mixture:
        return self.far if self.far and is_far(gpu, self.references) else self.weights

    def views(self, op: Op, gpu: Gpu, setting: Setting) -> Views:
        """What each view says of calls on a GPU as if its architecture had never been measured."""
        return self._views(op, gpu, setting, features(op, gpu, setting))

    def _views(self, op: Op, gpu: Gpu, setting: Setting, table: Features) -> Views:
        here = self._views_here(op, gpu, table)
        return here._replace(reference=self._among_others(gpu, op, setting, here))

    def _among_others(self, gpu: Gpu, op: Op, setting: Setting, here: Views) -> Array:
        """Mean of what GPUs say that are no kin: of those that ran a call's kernel, the nearest or else any, and where
        there are none of those near ones that ran another kernel instead."""
        near, logs = tiers(gpu, self.references)[2], np.full(len(op), np.nan)
        tries: list[tuple[tuple[str, ...], NDArray[Any] | None]] = [(near, None)]
        if names_kernels(op.family):
            asked = kernels_of(op.family, groups(op, gpu, setting), len(op))
            tries = [(near, asked), (outsiders(gpu, self.references), asked), *tries]
        for names, alike in tries:
            left = np.flatnonzero(np.isnan(logs))
            if not left.size:
                break
            calls = (op.take(left), setting.take(left), Views(*(view[left] for view in here)))
            kernels = None if alike is None else alike[left]
            logs[left] = _mean_of_known((self._told_by(name, *calls, kernels) for name in names), len(left))
        return logs

    def _told_by(self, name: str, op: Op, setting: Setting, here: Views, kernels: Text | None) -> Array:
        """What a GPU that is no kin says of calls, or of those alone that run theirs of `kernels` there, (n_calls,)."""
        logs, rows = np.full(len(op), np.nan), np.arange(len(op))
        if kernels is not None:
            there = kernels_of(op.family, groups(op, get_gpu(name), setting), len(op))
            rows = np.flatnonzero(there == kernels)
        if rows.size:
            views = Views(*(view[rows] for view in here))
            logs[rows] = self._referred_to(name, op.take(rows), setting.take(rows), _by_transfer, views)
        unknown = np.isnan(logs)
        return np.where(unknown, self._stood_in_on(name, op, setting, here), logs) if unknown.any() else logs

    def _views_here(self, op: Op, gpu: Gpu, here: Features) -> Views:
        silent, core = np.full(len(op), np.nan), np.log(core_s(here, self.floors))
        dtypes = text_column(getattr(op, "dtype", ""), len(op))
        line = np.log(line_s(self.line, dtypes, roofline(op, gpu).latency_s))
        return Views(self._transfer(*self._seen(here)), silent, core, line)

    def _referred(
        self, names: tuple[str, ...], op: Op, setting: Setting, carry: Carry | None, here: Views | None = None
    ) -> Array:
        """Mean log-latency on the GPUs `names`, each carried over to the asked GPU; not a number where none knows."""
        return _mean_of_known((self._referred_to(name, op, setting, carry, here) for name in names), len(op))

    def _referred_to(self, name: str, op: Op, setting: Setting, carry: Carry | None, here: Views | None) -> Array:
        logs, gpu = np.full(len(op), np.nan), get_gpu(name)
        chosen = isinstance(setting.kernel, str) and not setting.kernel
        # A kernel that was never run there is replaced by the one the engine picks there.
        for whose in (setting,) if chosen else (setting, setting._replace(kernel="")):
            left = np.flatnonzero(np.isnan(logs))
            if not left.size:
                break
            measured = left[_among(self.references[name], groups(op.take(left), gpu, whose.take(left)), len(left))]
            if not measured.size:
                continue
            for told in self._told(name, op, whose, measured, carried=carry is not None):
                logs[told.rows] = told.reference
                if carry and here:
                    slower = Ratio(here.transfer[told.rows] - told.transfer, here.core[told.rows] - told.core)
                    logs[told.rows] += carry(slower)
        return logs

    def _told(self, name: str, op: Op, setting: Setting, rows: NDArray[np.int64], *, carried: bool) -> list[Told]:
        """What a measured GPU says of the calls at `rows`; carried: what is needed to carry it over, too."""

        def answer() -> list[Told]:
            return [
                self._told_of(at, there, name, carried) for at, there in _features_at(op, get_gpu(name), setting, rows)
            ]

        return self.told.ask((name, carried, rows.tobytes(), *fingerprint(op, setting)), answer)

    def _told_of(self, rows: NDArray[np.int64], there: Features, name: str, carried: bool) -> Told:
        values, base = self._seen(there)
        reference = self._reference(values, base, there.tokens, name)
        if not carried:
            return Told(rows, reference, reference, reference)
        return Told(rows, reference, self._transfer(values, base), np.log(core_s(there, self.floors)))

    def _stood_in(self, names: tuple[str, ...], op: Op, setting: Setting, here: Views) -> Array:
        """As _referred, from other engines, timings or 16-bit formats that ran the same kernels there.

        What sets them apart is what the transfer trees make of it.
        """
        return _mean_of_known((self._stood_in_on(name, op, setting, here) for name in names), len(op))

    def _stood_in_on(self, name: str, op: Op, setting: Setting, here: Views) -> Array:
        logs = np.full(len(op), np.nan)

        def answer() -> list[Told]:
            return [
                self._told_of(rows[some], there, name, carried=True)
                for rows, like, whose in self._stand_ins(name, op, setting)
                for some, there in _features_at(like, get_gpu(name), whose, np.arange(len(rows)))
            ]

        for told in self.told.ask((name, "stand-in", *fingerprint(op, setting)), answer):
            logs[told.rows] = told.reference + here.transfer[told.rows] - told.transfer
        return logs

    def _stand_ins(self, name: str, op: Op, setting: Setting) -> Iterator[tuple[NDArray[np.int64], Op, Setting]]:
        """Rows of calls, and as which calls that a GPU was measured with they are asked for."""
        gpu, measured = get_gpu(name), self.references[name]
        asked = text_column(groups(op, gpu, setting), len(op))
        for group in sorted(set(asked.tolist())):
            if group in measured or (other := stand_in(op.family, group, measured)) is None:
                continue
            rows = np.flatnonzero(asked == group)
            if not rows.size:  # numpy takes no two names that differ in a last NUL for equal
                continue
            like = replace(op.take(rows), **other.formats)
            if _among(measured, groups(like, gpu, other.setting), len(rows)).all():
                yield rows, like, other.setting

    def _seen(self, table: Features) -> tuple[NDArray[np.float32], Array]:
        """What both boosters see of each call, and what they correct."""
        if table.names != self.names:
            raise InvalidBundle(f"the estimator of {self.name} was made with other features; train it again.")
        return inputs(table, self.floors)

    def _transfer(self, values: NDArray[np.float32], base: Array) -> Array:
        margin = self.transfer.inplace_predict(values, validate_features=False)
        return np.asarray(np.log(base) + margin, dtype=np.float64)

    def _reference(self, values: NDArray[np.float32], base: Array, tokens: NDArray[np.float32], name: str) -> Array:
        seen = reference_values(values, tokens, name, list(self.references))
        margin = self.reference.inplace_predict(seen, validate_features=False)
        return np.asarray(np.log(base) + margin, dtype=np.float64)


def _mean_of_known(parts: Iterable[Array], calls: int) -> Array:
    """Mean of the parts that know each call, (calls,); not a number where none does."""
    total, count = np.zeros(calls), np.zeros(calls)
    for logs in parts:
        known = ~np.isnan(logs)
        total[known] += logs[known]
        count += known
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


class Ratio(NamedTuple):
    """Log of how much slower the asked GPU is than a reference, (n_calls,), by two views."""

    transfer: Array
    core: Array


Carry = Callable[[Ratio], Array]


def _by_transfer(slower: Ratio) -> Array:
    return slower.transfer


def _between_siblings(slower: Ratio) -> Array:
    """Siblings differ less than their specs: by half of small differences, by a tenth less than large ones.

    Judged on H100 and H200, the pair of siblings that most was measured of (training/EXPERIMENTS.md).
    """
    both = (slower.transfer + slower.core) / 2
    return np.asarray(both - 0.1 * np.tanh(5 * both))


def reference_values(
    values: NDArray[np.float32], tokens: NDArray[np.float32], gpus: Text, names: list[str]
) -> NDArray[np.float32]:
    """What the reference trees see: the values of the transfer trees, token counts and which GPU it is.

    gpus: one name for all calls, or (n_calls,) names.
    """
    which = np.empty((len(values), len(names)), dtype=np.float32)
    for at, name in enumerate(names):
        which[:, at] = gpus == name
    return np.concatenate([values, tokens, which], axis=1)


def leaves_of(booster: xgboost.Booster, values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Leaf in which each call ends in each of the first trees, (n_calls, n_trees)."""
    import xgboost

    trees = (0, min(LEAF_TREES, booster.num_boosted_rounds()))
    leaves = booster.predict(xgboost.DMatrix(values, nthread=1), pred_leaf=True, iteration_range=trees)
    return np.asarray(leaves.reshape(len(values), -1), dtype=np.int64)


def _among(names: frozenset[str], groups: Text, calls: int) -> NDArray[np.bool_]:
    """Whether the group of each call is one of `names`, (n_calls,)."""
    if (name := one_name(groups)) is not None:
        return np.full(calls, name in names)
    of_calls = np.asarray(groups).tolist()
    measured = {group: group in names for group in set(of_calls)}
    return np.array([measured[group] for group in of_calls], dtype=np.bool_)


def _features_at(
    op: Op, gpu: Gpu, setting: Setting, rows: NDArray[np.int64]
) -> list[tuple[NDArray[np.int64], Features]]:
    """Features of the calls at `rows` on a GPU, without those whose dtype it lacks."""
    try:
        return [(rows, features(op.take(rows), gpu, setting.take(rows)))]
    except UnsupportedDtype:
        pass
    texts = [text_column(getattr(op, field, ""), len(op))[rows].tolist() for field in ("dtype", "kv_dtype")]
    kinds = list(zip(*texts, strict=True))
    number = {kind: i for i, kind in enumerate(dict.fromkeys(kinds))}
    if len(number) == 1:
        return []
    codes = np.array([number[kind] for kind in kinds])
    return [part for i in range(len(number)) for part in _features_at(op, gpu, setting, rows[codes == i])]
