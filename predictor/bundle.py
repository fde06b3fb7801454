"""A released set of estimators: XGBoost boosters in their own JSON-binary format, and a manifest.

bundle.json holds feature names and order, training GPUs and ranges, library versions, metrics and the sha256 of
every file. Nothing in a bundle is executed: no pickle, no code, no expressions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from predictor.errors import InvalidBundle
from predictor.estimator import Estimator
from predictor.features import Features
from predictor.ops.dtypes import Array

if TYPE_CHECKING:
    import xgboost

FORMAT = 1
MANIFEST = "bundle.json"
DEFAULT_BUNDLE = "base-1"
MANIFEST_TYPES = {"id": str, "level": float, "estimators": dict, "gpus": list, "recipe": dict}
ESTIMATOR_TYPES = {
    "file": str,
    "sha256": str,
    "features": list,
    "floors": dict,
    "gpus": list,
    "ranges": dict,
    "log_offsets": dict,
    "roofline2": dict,
    "trust_unseen": float,
}


@dataclass(frozen=True, slots=True)
class Bundle:
    """path: folder. manifest: parsed and verified bundle.json. Estimators load when first asked for."""

    path: Path
    manifest: Mapping[str, Any]
    _estimators: dict[str, Estimator] = field(default_factory=dict, repr=False)

    @property
    def id(self) -> str:
        """Name of the release."""
        return str(self.manifest["id"])

    @property
    def level(self) -> float:
        """Probability that an interval covers the truth on a GPU of an unseen generation."""
        return float(self.manifest["level"])

    def has(self, estimator: str) -> bool:
        """Whether the bundle can predict ops of this estimator."""
        return estimator in self.manifest["estimators"]

    def estimator(self, name: str) -> Mapping[str, Any]:
        """Manifest entry of one estimator."""
        entry: Mapping[str, Any] = self.manifest["estimators"][name]
        return entry

    def saw(self, estimator: str, gpu: str) -> bool:
        """Whether rows of this GPU trained the estimator."""
        return self.has(estimator) and gpu in self.estimator(estimator)["gpus"]

    def latency_s(self, estimator: str, table: Features, seen: Any) -> Array:
        """Predicted seconds per call, (n_calls,); the caller holds them above the bound.

        seen: whether the estimator saw the GPU; where not, the prediction leans towards the core.
        """
        entry = self.estimator(estimator)
        if list(table.names) != list(entry["features"]):
            raise InvalidBundle(
                f"bundle {self.id} was made with other features for {estimator}; train it again with this version."
            )
        if estimator not in self._estimators:
            self._estimators[estimator] = Estimator(load_booster(self.path, entry), entry["floors"])
        trust = np.where(seen, 1.0, float(entry["trust_unseen"]))
        return self._estimators[estimator].latency_s(table, trust)

    def log_offsets(self, estimator: str, seen: bool) -> tuple[float, float]:
        """log(truth / prediction) at the ends of the interval, on GPUs the estimator saw or did not see."""
        low, high = self.estimator(estimator)["log_offsets"]["seen" if seen else "unseen"]
        return float(low), float(high)


def load_booster(folder: Path, entry: Mapping[str, Any]) -> xgboost.Booster:
    """Read one booster after its sha256 was found to match the manifest."""
    path = folder / str(entry["file"])
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidBundle(f"{path} cannot be read ({reason}); install or copy the bundle again.") from None
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise InvalidBundle(f"{path} is corrupt (sha256 differs from the manifest); install or copy the bundle again.")
    import xgboost

    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(content))
    except xgboost.core.XGBoostError as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "unreadable")
        raise InvalidBundle(f"{path} is no XGBoost model ({reason}); train it again.") from None
    return booster


def load_bundle(name_or_path: str | Path = "") -> Bundle:
    """Open a bundle by released id ("" = the default) or by folder; a broken one raises InvalidBundle."""
    folder = locate(name_or_path or DEFAULT_BUNDLE)
    return _open(folder.resolve(), (folder / MANIFEST).stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _open(folder: Path, _modified: int) -> Bundle:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidBundle(f"{path} is not valid JSON ({error}); install or copy the bundle again.") from None
    _verify(manifest, path)
    return Bundle(folder, manifest)


def _verify(manifest: Any, path: Path) -> None:
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise InvalidBundle(f"{path} has format {found}; this version reads format {FORMAT}: train the bundle again.")
    _verify_types(manifest, MANIFEST_TYPES, f"{path}")
    for name, entry in manifest["estimators"].items():
        where = f"{path}: estimator {name}"
        _verify_types(entry, ESTIMATOR_TYPES, where)
        offsets = entry["log_offsets"]
        pairs = [offsets.get("seen"), offsets.get("unseen"), *entry["floors"].values(), *entry["roofline2"].values()]
        if not all(_is_pair(pair) for pair in pairs) or "" not in entry["floors"] or "" not in entry["roofline2"]:
            raise InvalidBundle(f"{where} has invalid numbers; install or copy the bundle again, or train it again.")
        if Path(entry["file"]).name != entry["file"]:
            raise InvalidBundle(
                f"{path}: estimator {name} has file {entry['file']!r}; it must lie in the bundle's folder."
            )


def _is_pair(found: Any) -> bool:
    return isinstance(found, list) and len(found) == 2 and all(isinstance(x, int | float) for x in found)


def _verify_types(found: Any, types: Mapping[str, type], where: str) -> None:
    for key, wanted in types.items():
        if not isinstance(found, dict) or not isinstance(found.get(key), wanted):
            raise InvalidBundle(f"{where} has no valid {key}; install or copy the bundle again, or train it again.")


def locate(name_or_path: str | Path) -> Path:
    """Folder of a bundle: an existing folder, or the id of a released one."""
    folder = Path(name_or_path)
    if (folder / MANIFEST).is_file():
        return folder
    for root in released_roots():
        if (root / str(name_or_path) / MANIFEST).is_file():
            return root / str(name_or_path)
    known = sorted({p.parent.name for root in released_roots() for p in root.glob(f"*/{MANIFEST}")})
    raise InvalidBundle(f'no bundle "{name_or_path}"; released ones: {", ".join(known) or "none"}; or give a folder.')


def released_roots() -> tuple[Path, ...]:
    """Where released bundles are: inside the installed package, or models/ of a checkout."""
    package = Path(str(files("predictor")))
    return tuple(root for root in (package / "models", package.parent / "models") if root.is_dir())
