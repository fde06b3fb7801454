"""Fits what closed forms of memory miss, on simulated allocations, and releases it as models/memory-1.

    .venv/bin/python training/memory_residual.py --rows rows.csv … [--out models/memory-1]

rows.csv: of training/memory_simulator.py; it stays out of the repository. Two boosters: log of what the dynamic part of
the peak is over its closed form, rising with the number of tokens, and log of held bytes (segments with a block in use)
over allocated ones. Errors are of whole families of models held out in turn. The spread's width has two parts:
`dynamic` is fitted on those errors, `fixed`, what versions of software and ways of measuring add, on the half of the
published peaks that predictor/learning/validation/memory.py names (`fitted`). Spreads of training are of other programs
than the one that is simulated: training/memory_spread.py --release writes them afterwards.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xgboost
from memory_specs import CONFIGS
from scipy.stats import norm

from predictor.memory import closed_form as memory, training as training_memory
from predictor.memory.uncertainty import BUNDLE, FALLING, FEATURES, FORMAT, MANIFEST, RISING, ClosedForm
from predictor.workloads import Workload
from predictor.workloads.models import model_from_config
from predictor.workloads.passes.training import TrainingSetting

ROOT = Path(__file__).resolve().parents[1]
PARAMETERS = {
    "max_depth": 4,
    "eta": 0.06,
    "min_child_weight": 10,
    "subsample": 0.8,
    "colsample_bytree": 0.7,
    # Not the absolute error: it sets leaves anew after the split, whatever the constraints.
    "objective": "reg:pseudohubererror",
    "huber_slope": 0.05,
    "seed": 0,
    "nthread": 2,
    "monotone_constraints": str(tuple((name in RISING) - (name in FALLING) for name in FEATURES)),
}
ROUNDS = 200
QUANTILES = np.linspace(0, 1, 101)[1:-1]
OPTIMIZERS = {"adamw": "adamw_foreach", "adamw_fused": "adamw"}
# Serving engines were not measured at hand: a normal distribution, judged by the vLLM log in tests/test_memory.py.
SERVING = {"dynamic": 0.15, "fixed": 0.03}
# Standard log errors that versions of software and ways of measuring add, by `training/memory_spread.py --fit`.
FIXED = {"training": 0.08, "inference": 0.02}
LEAST = 0.005  # log error of a simulated run of which nothing is dynamic

CARD = """# Bundle memory-1

What the closed forms of memory (`predictor/memory/closed_form.py`, `predictor/memory/training.py`) miss of PyTorch's
allocations: a correction of the part that is not plain parameters, fragmentation, and the distribution of what is left,
from which the interval and the probability of running out of memory come. Made by `training/memory_residual.py` from
{rows} simulated steps of {models} published models (`training/memory_simulator.py`; no measurement is in it). Types of
model, each held out in turn: {families}.

```
{ledger}
```

The spreads of training are of half of the peaks that six programs published (`training/memory_spread.py --release`):
"training_stated" where a request says `kernels` and `loss`, "training" where it does not, or names a trainer only.

Published peaks, replayed: `predictor validate --only memory`, `training_peaks`, summed up in `docs/accuracy.md`.
"""


def closed_form_of(row: dict[str, Any]) -> ClosedForm:
    """The closed form of a simulated run."""
    model = model_from_config(CONFIGS[row["model"]], row["model"])
    precision = str(row["precision"])
    if row["mode"] == "inference":
        return _inference(row, model, precision)
    setting = TrainingSetting(
        method=row["method"],
        lora_rank=int(row["lora_rank"]),
        lora_targets=row["lora_targets"],
        lora_dropout=0.0,
        optimizer=OPTIMIZERS.get(row["optimizer"], row["optimizer"]),
        micro_batch=int(row["batch"]),
        grad_accum=int(row["grad_accum"]),
        seq_len=int(getattr(model, "fixed_len", 0) or row["seq_len"]),
        checkpointing="full" if row["checkpointing"] else "none",
        dtype="fp32" if precision == "fp32" else "bf16",
        precision="amp" if precision.endswith("-amp") else "pure",
        kernels="eager",
        attention="eager" if row["attention"] in ("eager", "math") else "sdpa",
    )
    return training_memory.closed_form(model, setting)[2]


def _inference(row: dict[str, Any], model: Any, dtype: str) -> ClosedForm:
    sizes = {"batch": int(row["batch"]), "input_len": int(row["seq_len"])}
    new = max(int(row["new_tokens"]), 1)
    if not getattr(model, "fixed_len", 0) and model.max_len < sizes["input_len"] + new:
        model = replace(model, max_len=sizes["input_len"] + new)
    kinds, form = memory.closed_form(Workload(model=model, engine="torch", output_len=new, dtype=dtype, **sizes))
    each = (4.0 if dtype == "fp32" else 6.0) if row["logits"] == "all" else 0.0
    logits = each * sizes["batch"] * sizes["input_len"] * model.vocab
    more = max(logits - kinds["activations_bytes"], 0.0)
    return form._replace(peak=form.peak + more, dynamic=form.dynamic + more)


def table(paths: Sequence[Path]) -> pd.DataFrame:
    """The rows with their closed forms and features; family: the type of model, which is held out whole.

    Left out is what no one can ask for: attention by PyTorch's fallback, and eager attention that only answers.
    """
    rows = pd.concat([pd.read_csv(each, keep_default_na=False) for each in paths])
    rows = rows[(rows["attention"] != "math") & ((rows["attention"] != "eager") | (rows["mode"] == "train"))]
    rows["checkpointing"] = rows["checkpointing"].astype(str).isin(("True", "1"))
    found = []
    for row in rows.to_dict("records"):
        form = closed_form_of(row)
        if form.seen is None:
            continue
        known = {"peak": form.peak, "dynamic": form.dynamic, "family": CONFIGS[row["model"]]["model_type"]}
        found.append({**row, **known, **{f"x_{name}": form.seen[name] for name in FEATURES}})
    return pd.DataFrame(found)


def targets(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log of dynamic bytes over their closed form, of held over allocated, and what each row counts."""
    resident = frame["peak"] - frame["dynamic"]
    least = frame["dynamic"] * 0.2
    corrected = np.log(np.maximum(frame["peak_allocated_bytes"] - resident, least) / frame["dynamic"])
    fragmented = np.log(frame["peak_held_bytes"] / frame["peak_allocated_bytes"])
    return corrected.to_numpy(), fragmented.to_numpy(), (frame["dynamic"] / frame["peak"]).to_numpy() + 0.02


def fit(frame: pd.DataFrame) -> list[xgboost.Booster]:
    """The two boosters."""
    values = frame[[f"x_{name}" for name in FEATURES]].to_numpy(dtype=np.float32)
    corrected, fragmented, weight = targets(frame)
    return [
        xgboost.train(PARAMETERS, xgboost.DMatrix(values, label=label, weight=weight), ROUNDS)
        for label in (corrected, fragmented)
    ]


def predicted(frame: pd.DataFrame, boosters: list[xgboost.Booster]) -> pd.DataFrame:
    """Allocated and held bytes as the boosters say."""
    values = frame[[f"x_{name}" for name in FEATURES]].to_numpy(dtype=np.float32)
    corrected, fragmented = (np.exp(booster.inplace_predict(values)) for booster in boosters)
    allocated = frame["peak"] + frame["dynamic"] * (corrected - 1)
    return frame.assign(allocated=allocated, held=allocated * np.maximum(fragmented, 1.0))


def held_out(frame: pd.DataFrame) -> pd.DataFrame:
    """Predictions for each family by boosters that never saw it."""
    pieces = []
    for name in sorted(frame["family"].unique()):
        out = frame["family"] == name
        pieces.append(predicted(frame[out], fit(frame[~out])))
    return pd.concat(pieces)


def summary(scored: pd.DataFrame) -> str:
    """Errors by mode and method: closed form, learned and held, of families held out."""
    allocated, held = "peak_allocated_bytes", "peak_held_bytes"
    lines = ["median / mean |error| % (worst under): closed form, learned, with fragmentation"]
    for (mode, method), part in scored.groupby(["mode", "method"]):
        cells = []
        for said, truth in (("peak", allocated), ("allocated", allocated), ("held", held)):
            error = 100 * (part[said] / part[truth] - 1)
            cells.append(f"{error.abs().median():4.1f} /{error.abs().mean():5.1f} ({error.min():4.0f})")
        lines.append(f"{mode:10} {method:6} {len(part):5} rows  " + "   ".join(cells))
    return "\n".join(lines)


def spreads(scored: pd.DataFrame, fixed: Mapping[str, float]) -> dict[str, Any]:
    """By mode: the width and the quantiles of the scores of held-out families."""
    normal = np.round(norm.ppf(QUANTILES), 3).tolist()
    found: dict[str, Any] = {"serving": SERVING | {"quantiles": normal}}
    for mode, part in scored.groupby("mode"):
        error, share = _errors(part)
        dynamic = float(np.quantile(np.abs(error) / np.maximum(share, 0.05), 0.8) / 1.28)
        quantiles = np.round(np.quantile(error / np.hypot(dynamic * share, LEAST), QUANTILES), 3).tolist()
        found[_kind(mode)] = {"dynamic": round(dynamic, 4), "fixed": fixed[_kind(mode)], "quantiles": quantiles}
    return found


def _errors(part: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Log error of the held bytes, and the share of them that is dynamic."""
    error = np.log(part["peak_held_bytes"] / part["held"])
    return error.to_numpy(), (part["dynamic"] / part["held"]).to_numpy()


def _kind(mode: object) -> str:
    return "training" if mode == "train" else "inference"


def calibration(scored: pd.DataFrame, spread: dict[str, Any]) -> str:
    """How often the truth exceeds what is called 10 %, 50 % and 90 % likely to be exceeded, by mode."""
    lines = ["share of runs above what is exceeded with a chance of 10 / 50 / 90 %"]
    for mode, part in scored.groupby("mode"):
        entry = spread[_kind(mode)]
        error, share = _errors(part)
        score = error / np.hypot(entry["dynamic"] * share, LEAST)
        shares = [float((score > np.interp(1 - p, QUANTILES, entry["quantiles"])).mean()) for p in (0.1, 0.5, 0.9)]
        lines.append(f"{mode:10} " + " / ".join(f"{100 * share:.0f}" for share in shares))
    return "\n".join(lines)


def release(folder: Path, boosters: list[xgboost.Booster], spread: dict[str, Any], about: dict[str, Any]) -> None:
    """Write the boosters, then the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for name, booster in zip(("correction", "fragmentation"), boosters, strict=True):
        file = folder / f"{name}.ubj"
        booster.save_model(file)
        entries.append({"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()})
    manifest = {"format": FORMAT, "features": FEATURES, "boosters": entries, "spreads": spread, **about}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(CARD.format(**about | {"ledger": "\n".join(about["ledger"])}), encoding="utf-8")


def main() -> None:
    """Fits, prints errors of held-out families, writes the bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "models" / BUNDLE)
    options = parser.parse_args()
    frame = table(options.rows)
    scored = held_out(frame)
    spread = spreads(scored, FIXED)
    print(summary(scored), calibration(scored, spread), sep="\n")
    ledger = [*summary(scored).splitlines(), *calibration(scored, spread).splitlines()]
    families = ", ".join(sorted(frame["family"].unique()))
    about = {"rows": len(frame), "models": frame["model"].nunique(), "families": families, "ledger": ledger}
    release(options.out, fit(frame), spread, about)


if __name__ == "__main__":
    main()
