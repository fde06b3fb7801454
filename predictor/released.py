"""Where released bundles are, and how their boosters are read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from predictor.errors import InvalidBundle

if TYPE_CHECKING:
    import xgboost


def released_roots() -> tuple[Path, ...]:
    """Folders of released bundles: inside the installed package, or models/ of a checkout."""
    package = Path(str(files("predictor")))
    return tuple(root for root in (package / "models", package.parent / "models") if root.is_dir())


def verified(folder: Path, entry: Mapping[str, Any]) -> bytes:
    """A file of a bundle after its sha256 was found to match the manifest."""
    path = folder / str(entry["file"])
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidBundle(f"{path} cannot be read ({reason}); install or copy the bundle again.") from None
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise InvalidBundle(f"{path} is corrupt (sha256 differs from the manifest); install or copy the bundle again.")
    return content


def load_booster(folder: Path, entry: Mapping[str, Any]) -> xgboost.Booster:
    """Read one booster after its sha256 was found to match the manifest."""
    content, path = verified(folder, entry), folder / str(entry["file"])
    import xgboost

    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(content))
    except xgboost.core.XGBoostError as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "unreadable")
        raise InvalidBundle(f"{path} is no XGBoost model ({reason}); train it again.") from None
    return booster
