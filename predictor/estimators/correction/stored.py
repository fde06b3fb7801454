"""Fitted corrections as a file of arrays, from which they come back to the bit and nothing is fitted.

A zip of NumPy arrays: numbers as they are in memory, texts of a fixed width, no pickle. Of GPU number i in "gpus" the
arrays are "i.place", "i.pull" and so on. Priors and ends of intervals are not in it: a bundle's manifest has them.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from predictor.errors import InvalidBundle
from predictor.estimators.correction.kernel import Prior, Traits
from predictor.estimators.correction.process import Correction
from predictor.hardware.gpu import get_gpu
from predictor.ops.dtypes import Array

GPUS = "gpus"
MOST_BYTES = 2**30  # of all arrays; 3,000 rows on each of four GPUs have 150 MB
BROKEN = (
    *(ValueError, OSError, EOFError, AttributeError, RuntimeError, MemoryError, SyntaxError, TokenError),
    *(zipfile.BadZipFile, zlib.error),
)
CURE = "copy the bundle again, or calibrate again"
TEXTS = ("engine", "dtype", "group")  # of Traits
PER_CALL = ("pull", "error", "left_out", "expected")  # of Correction, (n,)


def write_corrections(corrections: Mapping[str, Correction], path: Path) -> None:
    """Write the corrections of one estimator, GPU → correction, to a file; the same ones make the same bytes."""
    arrays = {GPUS: np.array(list(corrections), dtype=np.str_)}
    for i, correction in enumerate(corrections.values()):
        measured = correction.measured
        parts: dict[str, Any] = {
            "place": measured.place,
            "views": measured.views,
            "leaves": measured.leaves.astype(np.int32),  # XGBoost numbers nodes by 32 bits
            **{name: getattr(measured, name).astype(np.str_) for name in TEXTS},
            **{name: getattr(correction, name) for name in PER_CALL},
            "whitener": correction.whitener[np.tril_indices(len(correction.error))],
            "trust": np.array([correction.trust]),
        }
        arrays |= {f"{i}.{name}": value for name, value in parts.items()}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_corrections(
    content: bytes, where: Path, priors: Mapping[str, Prior], ends: Mapping[str, tuple[float, float]]
) -> Mapping[str, Correction]:
    """GPU → correction, from the content of a file. where: its path, for errors, which raise InvalidBundle."""
    try:
        with np.load(BytesIO(content), allow_pickle=False) as file:
            if (size := sum(part.file_size for part in file.zip.infolist())) > MOST_BYTES:
                raise ValueError(f"{size:,} bytes unpacked, of which at most {MOST_BYTES:,} are read")
            arrays = {name: file[name] for name in file.files}
        if strange := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{strange[0]} is no array")
    except BROKEN as error:
        raise InvalidBundle(f"{where} is no zip of NumPy arrays ({error}); {CURE}.") from None
    corrections = {}
    for i, name in enumerate(arrays.get(GPUS, np.array([], dtype=np.str_)).tolist()):
        if name not in priors or name not in ends:
            raise InvalidBundle(f"{where} has a correction of {name}, and the manifest no prior or ends; {CURE}.")
        own = {key.split(".", 1)[1]: value for key, value in arrays.items() if key.startswith(f"{i}.")}
        _verify(own, len(priors[name].lengths), f"{where}: {name}")
        measured = Traits(own["place"], own["views"], own["leaves"].astype(np.int64), *(own[text] for text in TEXTS))
        of_calls = {key: own[key] for key in PER_CALL}
        corrections[name] = Correction(
            gpu=get_gpu(name),
            prior=priors[name],
            measured=measured,
            whitener=_unpacked(own["whitener"], len(own["error"])),
            ends=ends[name],
            trust=float(own["trust"][0]),
            **of_calls,
        )
    return corrections


def _verify(own: Mapping[str, Any], lengths: int, where: str) -> None:
    """Raise where an array is missing, has another type or shape than it must, or is not finite."""
    n = len(own["error"]) if own.get("error", np.array(0)).ndim else 0
    trees = own["leaves"].shape[-1] if own.get("leaves", np.array(0)).ndim else 0
    shapes: dict[str, tuple[type, tuple[int, ...]]] = {
        "place": (np.float64, (n, lengths)),
        "views": (np.float64, (n, 4)),
        "leaves": (np.int32, (n, trees)),
        **dict.fromkeys(TEXTS, (np.str_, (n,))),
        **dict.fromkeys(PER_CALL, (np.float64, (n,))),
        "whitener": (np.float64, (n * (n + 1) // 2,)),
        "trust": (np.float64, (1,)),
    }
    for name, (kind, shape) in shapes.items():
        array = own.get(name, np.array(None))
        sound = array.dtype.type is kind and array.shape == shape and n > 0
        if not sound or (kind is np.float64 and not np.isfinite(array).all()):
            raise InvalidBundle(f"{where} has no valid {name}, which must be {kind.__name__} of shape {shape}; {CURE}.")


def _unpacked(packed: Array, n: int) -> Array:
    """The lower triangular matrix, (n, n), of its rows one after the other."""
    whole = np.zeros((n, n))
    whole[np.tril_indices(n)] = packed
    return whole
