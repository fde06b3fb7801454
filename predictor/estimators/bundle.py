"""A released set of estimators: XGBoost boosters in their own JSON-binary format, and a manifest.

bundle.json holds feature names and order, training GPUs and ranges, library versions, metrics and the sha256 of
every file. Nothing in a bundle is executed: no pickle, no code, no expressions.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from predictor.boosters import load_booster, released_roots, verified
from predictor.errors import InvalidBundle
from predictor.estimators.intervals import KINSHIPS, REGIMES
from predictor.estimators.store import CHAMPION, champions, folder_of, store_folder
from predictor.files import read_json, sha256_of, whole_file
from predictor.hardware.gpu import Gpu, add_gpus, catalogue, get_gpu, gpu_from_toml, own_spec
from predictor.hardware.siblings import is_far, is_measured, tiers

if TYPE_CHECKING:
    from predictor.estimators.correction.kernel import Prior
    from predictor.estimators.correction.process import Correction
    from predictor.estimators.estimator import Estimator
    from predictor.estimators.own_runs import OwnRuns
    from predictor.estimators.samples import TrainingSet

FORMAT = 3
MANIFEST = "bundle.json"
LEDGER = "ledger.csv"
FEWSHOT = "fewshot.csv"
CURVES = "curves.csv"  # of learning; bundles up to base-4 have none
REHEARSAL = "rehearsal.json"  # what the calls were like that trained the estimators
SPECS = "gpus"  # folder of the specs of GPUs that the catalogue lacks
LISTED_SPECS = "specs"  # of the manifest: file name → sha256; bundles of 0.1 have none
CALIBRATION = "calibration"  # of the manifest: the rows that a user measured, and on which GPUs
CALIBRATED_PRIORS, CALIBRATED_ENDS = "priors", "ends"  # of CALIBRATION: estimator → GPU → prior, ends of intervals
CORRECTIONS = ".corrections.npz"  # how the name of a file of fitted corrections ends, after that of the estimator
CALIBRATED_FITS = "fitted"  # of CALIBRATION: estimator → file of its corrections; bundles of 0.1 have none
OWN_RUNS = "own_runs"  # of the manifest: the whole runs that a user measured, and on which GPUs how many
DEFAULT_BUNDLE = "base-5"
MANIFEST_TYPES = {
    "id": str,
    "level": float,
    "estimators": dict,
    "gpus": list,
    "recipe": dict,
    "correlation_across": float,
}
ESTIMATOR_TYPES = {
    "transfer": dict,
    "reference": dict,
    "features": list,
    "floors": dict,
    "line": dict,
    "references": dict,
    "weights": dict,
    "far": dict,
    "ranges": dict,
    "worst_share": float,
    "log_offsets": dict,
    "correlation": float,
}
FILE_TYPES = {"file": str, "sha256": str}
BOOSTERS = ("transfer", "reference")
VIEWS = ("transfer", "reference", "core", "line", "bound")  # whose weights an entry has, in this order
LARGEST = 1e300  # of a number; no NaN is below
SIZES = 3  # of calls, for each of which it has them (predictor.estimators.mixture, which is heavier)


@dataclass(frozen=True, slots=True)
class Bundle:
    """path: folder. manifest: parsed and verified bundle.json. Estimators load when first asked for."""

    path: Path
    manifest: Mapping[str, Any]
    _estimators: dict[str, Estimator] = field(default_factory=dict, repr=False)
    _uncorrected: dict[str, Estimator] = field(default_factory=dict, repr=False)
    _runs: OwnRuns | None = field(default=None, repr=False)
    _kinships: dict[tuple[str, Gpu], str] = field(default_factory=dict, repr=False, init=False, compare=False)

    @property
    def id(self) -> str:
        """Name of the release."""
        return str(self.manifest["id"])

    @property
    def sha256(self) -> str:
        """Digest of the manifest, which has that of every file."""
        return sha256_of(self.path / MANIFEST)

    @property
    def level(self) -> float:
        """Probability that an interval covers the truth on a GPU of an unseen generation."""
        return float(self.manifest["level"])

    def has(self, estimator: str) -> bool:
        """Whether the bundle can predict ops of this estimator."""
        return estimator in self.manifest["estimators"]

    def entry(self, estimator: str) -> Mapping[str, Any]:
        """Manifest entry of one estimator."""
        facts: Mapping[str, Any] = self.manifest["estimators"][estimator]
        return facts

    @property
    def calibrated(self) -> tuple[str, ...]:
        """GPUs on which a user measured rows that correct some estimator."""
        return tuple(self.manifest.get(CALIBRATION, {}).get("gpus", {}))

    @property
    def measured_runs(self) -> Mapping[str, int]:
        """GPU → whole runs that a user measured there."""
        return dict(self.manifest.get(OWN_RUNS, {}).get("gpus", {}))

    @property
    def own_runs(self) -> OwnRuns:
        """What they say of answers."""
        from predictor.estimators.own_runs import NO_RUNS, read_own_runs

        if self._runs is not None:
            return self._runs
        entry = self.manifest.get(OWN_RUNS)
        return read_own_runs(self.path, entry["file"], entry["sha256"]) if entry else NO_RUNS

    def with_runs(self, runs: OwnRuns) -> Bundle:
        """The bundle with these runs in place of its own."""
        return Bundle(self.path, self.manifest, self._estimators, self._uncorrected, runs)

    def without_runs(self) -> Bundle:
        """The bundle as it was before it had whole runs."""
        if OWN_RUNS not in self.manifest:
            return self
        kept = {key: value for key, value in self.manifest.items() if key != OWN_RUNS}
        own = self.id.rsplit("+", 1)[0]
        return Bundle(self.path, {**kept, "id": own}, self._estimators, self._uncorrected)

    def uncalibrated(self) -> Bundle:
        """The bundle as it was before anything was corrected."""
        before = self.without_runs()
        kept = {key: value for key, value in before.manifest.items() if key != CALIBRATION}
        own = before.id.rsplit("+", 1)[0] if self.calibrated else before.id
        return Bundle(self.path, {**kept, "id": own}, self._uncorrected, self._uncorrected)

    def prior(self, name: str, gpu: str = "") -> Prior | None:
        """What is known of how errors on an unseen GPU hang together; None in a bundle of one generation.

        gpu: one on which a user measured rows, which moved it.
        """
        from predictor.estimators.correction.kernel import Prior

        stored = self._told(CALIBRATED_PRIORS, name).get(gpu) or self.entry(name).get("prior")
        return Prior.from_json(stored) if stored else None

    def estimator(self, name: str) -> Estimator:
        """One estimator, read from its files when first asked for, with its corrections."""
        if name not in self._estimators:
            made = self._read(name)
            if corrections := self._corrections(name, made):
                from predictor.estimators.envelope import Knots

                made = replace(made, corrections=corrections, knots=Knots())
            self._estimators[name] = made
        return self._estimators[name]

    def corrects(self, name: str, gpu: str) -> bool:
        """Whether a user measured rows of an estimator on a GPU, which correct what it says there."""
        if CALIBRATED_ENDS in self.manifest.get(CALIBRATION, {}):
            return gpu in self._told(CALIBRATED_ENDS, name)
        rows = self._measured().get(name)
        return rows is not None and gpu in rows.gpus

    def _corrections(self, name: str, made: Estimator) -> Mapping[str, Correction]:
        """GPU → what rows that a user measured there teach: as it was fitted, or where that is of no use from the rows.

        Of no use: the bundle was calibrated before fits were kept, or a GPU has another spec since.
        """
        ends = {gpu: (low, high) for gpu, (low, high) in self._told(CALIBRATED_ENDS, name).items()}
        fits: Mapping[str, Any] | None = self.manifest.get(CALIBRATION, {}).get(CALIBRATED_FITS)
        if fits is not None and name not in fits:
            return {}
        if fits is not None and fits[name]["specs"] == digest_of_specs([*made.references, *ends]):
            from predictor.estimators.correction.stored import read_corrections

            priors = {gpu: prior for gpu in ends if (prior := self.prior(name, gpu))}
            return read_corrections(verified(self.path, fits[name]), self.path / fits[name]["file"], priors, ends)
        rows = self._measured().get(name)
        if rows is None:
            return {}
        from predictor.estimators.corrected import corrections_of

        known = {gpu: self.prior(name, gpu) for gpu in set(rows.gpus.tolist())}
        return corrections_of(rows, made, known, self.level, ends)

    def _told(self, what: str, name: str) -> Mapping[str, Any]:
        """GPU → what a calibration keeps of an estimator there."""
        by_gpu: Mapping[str, Any] = self.manifest.get(CALIBRATION, {}).get(what, {}).get(name, {})
        return by_gpu

    def _measured(self) -> Mapping[str, TrainingSet]:
        """The rows that a user measured, by estimator."""
        entry = self.manifest.get(CALIBRATION)
        return _sets(self.path, entry["file"], entry["sha256"]) if entry else {}

    def _read(self, name: str) -> Estimator:
        """One estimator as it was before anything was corrected."""
        from predictor.estimators.estimator import Estimator
        from predictor.estimators.mixture import mixture_of

        if name not in self._uncorrected:
            entry = self.entry(name)
            _verify_groups(name, entry["references"], f"{self.path / MANIFEST}: estimator {name}")
            self._uncorrected[name] = Estimator(
                transfer=load_booster(self.path, entry["transfer"]),
                reference=load_booster(self.path, entry["reference"]),
                floors=entry["floors"],
                line=entry["line"],
                references={gpu: frozenset(groups) for gpu, groups in entry["references"].items()},
                weights=mixture_of(entry["weights"]),
                far=mixture_of(entry["far"]),
                names=tuple(entry["features"]),
                name=name,
            )
        return self._uncorrected[name]

    def kinship(self, estimator: str, gpu: Gpu) -> str:
        """How well an estimator knows a GPU: "seen" where its rows trained it, "sibling" where those of its
        architecture did, "unseen" where those of other GPUs of its class did, else "far"."""
        if (estimator, gpu) not in self._kinships:
            self._kinships[estimator, gpu] = self._kinship(estimator, gpu)
        return self._kinships[estimator, gpu]

    def _kinship(self, estimator: str, gpu: Gpu) -> str:
        measured = self.entry(estimator)["references"]
        own, siblings, _ = tiers(gpu, measured)
        if own or siblings:
            return "seen" if is_measured(gpu, measured) else "sibling"
        return "far" if is_far(gpu, measured) else "unseen"


def load_bundle(name_or_path: str | Path = "") -> Bundle:
    """Open a bundle by released id ("" = the default), by folder or as "champion"; a broken one raises."""
    folder = locate(name_or_path or DEFAULT_BUNDLE)
    return _open(folder.resolve(), (folder / MANIFEST).stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _open(folder: Path, _modified: int) -> Bundle:
    path = folder / MANIFEST
    manifest = read_json(path, "install or copy the bundle again", InvalidBundle)
    _verify(manifest, path)
    for file in _specs(manifest, folder):
        _add_gpu(file)
    return Bundle(folder, manifest)


@lru_cache(maxsize=4)
def _sets(folder: Path, file: str, sha256: str) -> Mapping[str, TrainingSet]:
    from predictor.estimators.samples import training_sets
    from predictor.measurements.schema import parse_table

    return training_sets(parse_table(verified(folder, {"file": file, "sha256": sha256}), file))


def _specs(manifest: Mapping[str, Any], folder: Path) -> list[Path]:
    """Spec files of a bundle, each as the manifest has it; one that was made before manifests had them has any."""
    files = sorted((folder / SPECS).glob("*.toml"))
    listed: Mapping[str, str] | None = manifest.get(LISTED_SPECS)
    if listed is None:
        return files
    if unknown := [file for file in files if file.name not in listed]:
        raise InvalidBundle(f"{unknown[0]} is not in the manifest; remove it, or add that GPU with --spec.")
    for name, digest in listed.items():
        verified(folder / SPECS, {"file": name, "sha256": digest})
    return files


def _add_gpu(file: Path) -> None:
    """Add the GPU that a bundle brings to the catalogue, unless it is there."""
    gpu = gpu_from_toml(file)
    known = catalogue().get(gpu.name)
    if known is None:
        add_gpus(file)
    elif known != gpu:
        raise InvalidBundle(f"{file} describes another {gpu.name} than the one in use; use one of them at a time.")


def _verify(manifest: Any, path: Path) -> None:
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise InvalidBundle(f"{path} has format {found}; this version reads format {FORMAT}: train the bundle again.")
    _verify_types(manifest, MANIFEST_TYPES, f"{path}")
    if not 0 < manifest["level"] < 1:
        raise InvalidBundle(f"{path} has level {manifest['level']:g}; it must lie between 0 and 1: train it again.")
    if LISTED_SPECS in manifest:
        _verify_types(manifest, {LISTED_SPECS: dict}, f"{path}")
        for name, digest in manifest[LISTED_SPECS].items():
            _verify_file({"file": name, "sha256": digest}, f"{path}: {LISTED_SPECS}")
    if CALIBRATION in manifest:
        where = f"{path}: {CALIBRATION}"
        _verify_file(manifest[CALIBRATION], where)
        _verify_types(manifest[CALIBRATION], {"gpus": dict}, where)
        ends = [pair for by_gpu in manifest[CALIBRATION].get(CALIBRATED_ENDS, {}).values() for pair in by_gpu.values()]
        if not all(_is_pair(pair) for pair in ends):
            raise InvalidBundle(f"{where} has invalid {CALIBRATED_ENDS}; install or copy the bundle again.")
        for name, entry in manifest[CALIBRATION].get(CALIBRATED_FITS, {}).items():
            _verify_file(entry, f"{where}: {CALIBRATED_FITS} {name}")
            _verify_types(entry, {"specs": str}, f"{where}: {CALIBRATED_FITS} {name}")
    if OWN_RUNS in manifest:
        _verify_file(manifest[OWN_RUNS], f"{path}: {OWN_RUNS}")
        _verify_types(manifest[OWN_RUNS], {"gpus": dict}, f"{path}: {OWN_RUNS}")
    for name, entry in manifest["estimators"].items():
        where = f"{path}: estimator {name}"
        _verify_types(entry, ESTIMATOR_TYPES, where)
        for booster in BOOSTERS:
            _verify_file(entry[booster], where)
        tables = [entry["log_offsets"].get(kinship) for kinship in KINSHIPS]
        told = all(isinstance(table, dict) and "" in table for table in tables)
        per_dtype = [pairs for table in tables for pairs in table.values()] if told else []
        per_regime = [pair for pairs in per_dtype if isinstance(pairs, list) for pair in pairs]
        pairs = [*per_regime, *entry["floors"].values(), *entry["line"].values(), *entry["ranges"].values()]
        told &= bool(entry["references"]) and 0 < entry["worst_share"] <= 1 and abs(entry["correlation"]) <= 1
        complete = told and len(per_regime) == len(per_dtype) * (len(REGIMES) + 1)
        sound = complete and all(_are_texts(groups) for groups in (entry["features"], *entry["references"].values()))
        sound &= all(_is_pair(pair) for pair in pairs)
        sound &= all(_are_weights(sizes) for mixture in ("weights", "far") for sizes in entry[mixture].values())
        if not sound or any("" not in entry[name] for name in ("floors", "line", "weights", "far")):
            raise InvalidBundle(f"{where} has invalid numbers; install or copy the bundle again, or train it again.")
        _verify_ranges(name, entry["ranges"], where)


def _verify_ranges(name: str, ranges: Mapping[str, Any], where: str) -> None:
    """Raise where a range is of no number that calls of the estimator have, or its ends are in no order."""
    from predictor.ops import FAMILIES
    from predictor.ops.base import TEXT_FIELDS, names_of

    known = {field for kind in FAMILIES if name.startswith(kind.family) for field in names_of(kind)} - {*TEXT_FIELDS}
    for field_name, (least, most) in ranges.items():
        if field_name not in known or not 0 <= least <= most:
            raise InvalidBundle(
                f"{where} has range {field_name[:60]!r} from {least:g} to {most:g}; it must be of a number that its "
                "calls have, upwards from 0. Install or copy the bundle again, or train it again."
            )


def _verify_groups(name: str, references: Mapping[str, Sequence[str]], where: str) -> None:
    """Raise where a group of measured calls has not as many parts as those of the family have."""
    from predictor.estimators.features import PARTS

    counts = {len(parts) for family, parts in PARTS.items() if name.startswith(family)}
    for group in (group for groups in references.values() for group in groups):
        if group.count("|") + 1 not in counts:
            raise InvalidBundle(f"{where} has group {group[:60]!r}, which is none; install or copy the bundle again.")


def _verify_file(entry: Any, where: str) -> None:
    _verify_types(entry, FILE_TYPES, where)
    if Path(entry["file"]).name != entry["file"]:
        raise InvalidBundle(f"{where} has file {entry['file']!r}; it must lie in the bundle's folder.")


def _is_pair(value: Any) -> bool:
    return _are_numbers(value, 2)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _are_weights(value: Any) -> bool:
    return isinstance(value, list) and len(value) == SIZES and all(_are_numbers(one, len(VIEWS)) for one in value)


def _are_numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(_is_number(x) for x in value)


def _is_number(value: Any) -> bool:
    """Whether it is one that NumPy calculates with."""
    return isinstance(value, int | float) and abs(value) < (LARGEST if isinstance(value, float) else 2**63)


def _verify_types(table: Any, types: Mapping[str, type], where: str) -> None:
    for key, wanted in types.items():
        if not isinstance(table, dict) or not isinstance(table.get(key), wanted):
            raise InvalidBundle(f"{where} has no valid {key}; install or copy the bundle again, or train it again.")


def write_manifest(manifest: Mapping[str, Any], folder: Path) -> None:
    """Write bundle.json of a folder."""
    with whole_file(folder / MANIFEST) as draft:
        draft.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def keep_specs(gpus: Iterable[str], folder: Path) -> dict[str, str]:
    """Copy the spec files of those GPUs that the catalogue lacks into the folder of a bundle.

    Returns what the manifest says of all specs there: file name → sha256.
    """
    import tomllib

    for name in gpus:
        if file := own_spec(name):
            (folder / SPECS).mkdir(exist_ok=True)
            text = file.read_text(encoding="utf-8")
            named = "" if "name" in tomllib.loads(text) else f"name = {json.dumps(name)}\n"
            safe = re.sub(r"[^\w.-]", "_", name)
            (folder / SPECS / f"{safe}.toml").write_text(named + text, encoding="utf-8")
    return {file.name: sha256_of(file) for file in sorted((folder / SPECS).glob("*.toml"))}


def keep_corrections(estimators: Iterable[Estimator], folder: Path) -> dict[str, dict[str, str]]:
    """Write the corrections of estimators to the folder of a bundle; returns what the manifest says of them."""
    from predictor.estimators.correction.stored import write_corrections

    kept = {}
    for estimator in estimators:
        path = folder / f"{estimator.name}{CORRECTIONS}"
        write_corrections(estimator.corrections, path)
        specs = digest_of_specs([*estimator.references, *estimator.corrections])
        kept[estimator.name] = {"file": path.name, "sha256": sha256_of(path), "specs": specs}
    return kept


def digest_of_specs(gpus: Iterable[str]) -> str:
    """Digest of what GPUs can do, with which estimates and so the errors that a correction is fitted to change."""
    specs = [repr(replace(get_gpu(name), aliases=(), source="")) for name in sorted(set(gpus))]
    return hashlib.sha256("\n".join(specs).encode()).hexdigest()


def locate(name_or_path: str | Path) -> Path:
    """Folder of a bundle: an existing folder, the id of a released one, or "champion"."""
    if str(name_or_path) == CHAMPION:
        return champion_folder(store_folder())
    folder = Path(name_or_path)
    if (folder / MANIFEST).is_file():
        return folder
    for root in released_roots():
        if (root / str(name_or_path) / MANIFEST).is_file():
            return root / str(name_or_path)
    known = sorted({p.parent.name for root in released_roots() for p in root.glob(f"*/{MANIFEST}")})
    raise InvalidBundle(f'no bundle "{name_or_path}"; released ones: {", ".join(known) or "none"}; or give a folder.')


def champion_folder(store: Path) -> Path:
    """Folder of the champion of a store; of the released default where nothing is promoted."""
    names = champions(store)
    if not names:
        return locate(DEFAULT_BUNDLE)
    folder = folder_of(names[-1], store)
    if not (folder / MANIFEST).is_file() or sha256_of(folder / MANIFEST) != names[-1].sha256:
        raise InvalidBundle(f"{folder} is not the promoted {names[-1]} any more; restore it, or `predictor rollback`.")
    return folder
