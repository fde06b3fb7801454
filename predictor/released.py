"""Where released bundles are."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def released_roots() -> tuple[Path, ...]:
    """Folders of released bundles: inside the installed package, or models/ of a checkout."""
    package = Path(str(files("predictor")))
    return tuple(root for root in (package / "models", package.parent / "models") if root.is_dir())
