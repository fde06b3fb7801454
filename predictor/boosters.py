"""Loads XGBoost quickly, and says what to do where it cannot be loaded."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from predictor.errors import InvalidBundle, PredictorError
from predictor.files import is_regular
from predictor.shipped import PACKAGE

if TYPE_CHECKING:
    import xgboost

MOST_BYTES = 2**30  # of a file of a bundle
DIGEST = re.compile(rb'"([0-9a-f]{64})"')
CURE = "pip uninstall xgboost xgboost-cpu && pip install xgboost-cpu"
OLDEST = (3, 1)  # earlier ones read the intercepts of the released boosters as others, without an error


def is_light() -> bool:
    """Whether this process has xgboost without its scikit-learn interface."""
    return "xgboost" in sys.modules and "sklearn" not in sys.modules


def load_xgboost() -> None:
    """Import xgboost for a few predictions: one thread, without its scikit-learn interface, and without scipy, which
    predictions from arrays do not use. Both take longer than all else.

    Only for the command line's own processes: code that trains or wants xgboost.XGBRegressor imports xgboost itself.
    """
    if "xgboost" in sys.modules:
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a few hundred calls: threads cost more than they save
    try:
        with _stood_in(_stand_ins()):
            import xgboost  # noqa: F401
    except Exception as error:  # its own error class cannot be named when its import fails
        reason = str(error).strip().split("\n")[0]
        raise PredictorError(f"xgboost cannot be loaded ({reason}); run `{CURE}`, or `predictor doctor`.") from error


def _stand_ins() -> dict[str, ModuleType | None]:
    """Module → what xgboost finds in its place, None for "not installed". It names scipy.sparse.csr_matrix as a type,
    and takes the module itself from scipy when it is first asked for a sparse matrix."""
    sparse = ModuleType("scipy.sparse")
    sparse.csr_matrix = type("csr_matrix", (), {})  # type: ignore[attr-defined]
    return {"sklearn": None, "scipy.special": None, "scipy.sparse": sparse}


@contextmanager
def _stood_in(stand_ins: Mapping[str, ModuleType | None]) -> Iterator[None]:
    """Imports within the block find these modules, where they are not imported already."""
    modules: dict[str, Any] = sys.modules
    names = [name for name in stand_ins if name not in modules]
    modules.update({name: stand_ins[name] for name in names})
    try:
        yield
    finally:
        for name in names:
            del modules[name]


def released_roots() -> tuple[Path, ...]:
    """Folders of released bundles: inside the installed package, or models/ of a checkout."""
    return tuple(root for root in (PACKAGE / "models", PACKAGE.parent / "models") if root.is_dir())


def verified(folder: Path, entry: Mapping[str, Any]) -> bytes:
    """A file of a bundle after its sha256 was found to match the manifest; a link stands for what it points to."""
    path = folder / str(entry["file"])
    try:
        if path.exists() and (not is_regular(path) or path.stat().st_size > MOST_BYTES):
            raise ValueError(f"no regular file of {MOST_BYTES:,} bytes at most")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidBundle(f"{path} cannot be read ({reason}); install or copy the bundle again.") from None
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise InvalidBundle(f"{path} is corrupt (sha256 differs from the manifest); install or copy the bundle again.")
    return content


@cache
def _released() -> frozenset[bytes]:
    """Digests that manifests of released bundles have, of whose files copies are in bundles that are made from them."""
    manifests = [file.read_bytes() for root in released_roots() for file in root.glob("*/*.json")]
    return frozenset(digest for manifest in manifests for digest in DIGEST.findall(manifest))


def load_booster(folder: Path, entry: Mapping[str, Any]) -> xgboost.Booster:
    """Read one booster after its sha256 was found to match the manifest; one that was not released is checked, as
    XGBoost ends the process at a file that is made to hurt it."""
    content, path = verified(folder, entry), folder / str(entry["file"])
    import xgboost

    if tuple(int(part) for part in xgboost.__version__.split(".")[:2]) < OLDEST:
        least = ".".join(map(str, OLDEST))
        raise PredictorError(f"xgboost is {xgboost.__version__}; bundles need {least} or newer: run `{CURE}`.")
    booster = xgboost.Booster()
    try:
        if entry["sha256"].encode() not in _released():
            from predictor.ubjson import check_booster

            check_booster(content)
        booster.load_model(bytearray(content))
    except (xgboost.core.XGBoostError, ValueError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "unreadable")
        raise InvalidBundle(f"{path} is no XGBoost model ({reason}); train it again.") from None
    return booster
