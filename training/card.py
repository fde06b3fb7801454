"""The model card of a bundle: its accuracy on GPUs it never saw, as tables read from the ledger."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from predictor.cli.common.display import percent
from predictor.estimators.bundle import FEWSHOT, load_bundle
from predictor.hardware.gpu import get_gpu
from predictor.hardware.siblings import card_class
from predictor.learning.evaluate import read_ledger

MARKS = ("<!-- accuracy -->", "<!-- /accuracy -->")
PROTOCOLS = {
    "generation-out": "Generation held out: no GPU of the same microarchitecture was in training",
    "class-out": "Class of cards held out: no GPU of the same class was in training",
    "gpu-out": "GPU held out: siblings of the same architecture may have been in training",
    "rows-out": "Rows held out: a fifth of the rows of GPUs in training",
    "neusight": "NeuSight's own split: trained on P4, P100, V100 and T4, tested on the A100 (FP32 operators)",
}
# Rows of the summary: estimator, dtypes ("" for all).
ROWS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("GEMM bf16, fp16, fp8", "gemm", ("bf16", "fp16", "fp8")),
    ("GEMM fp8_block, nvfp4", "gemm", ("fp8_block", "nvfp4")),
    ("GEMM fp32", "gemm", ("fp32",)),
    ("prefill attention", "attention_prefill", ()),
    ("decode attention", "attention_decode", ()),
    ("MoE", "moe", ()),
    ("MLA prefill", "mla_prefill", ()),
    ("MLA decode", "mla_decode", ()),
    ("pointwise", "pointwise", ()),
    ("convolution", "conv", ()),
    ("collective", "collective", ()),
)
COLUMNS = {
    "mape": "error",
    "median_ape": "median",
    "p90_ape": "90th pct",
    "signed_median": "signed",
    "latency_weighted": "latency-weighted",
    "coverage": "coverage",
    "width": "width",
    "bound_mape": "bound",
    "roofline2_mape": "2-parameter",
}
PLAIN = ["bound_mape", "share_mape", "roofline2_mape"]
CLASSES_SAY = (
    "By class of card, mean over the GPUs of a class that have 30 rows or more. Class held out: no GPU of the class "
    "was in training; generation held out: others of the class may have been. Beside them the best of the plain "
    "models, the bare bound, the bound over a share of it and the 2-parameter roofline, which saw the same GPUs; then "
    "how many measured values lie in the 80 % interval, and how wide that is."
)
FEWEST_ROWS = 30
# Where intervals hold: protocols as a reader knows them.
TOLD = {
    "measured": "rows-out",
    "not measured, a sibling was": "gpu-out",
    "not measured, nor its generation": "generation-out",
    "of a class of which none was measured: {}": "class-out",
}
FAR_BELOW, FAR_ABOVE = 0.1, 0.15  # the level: coverage that is called too little, too much
SIBLINGS = ("H100-SXM-80GB", "H200-SXM-141GB")


def write_card(folder: Path) -> None:
    """Write README.md of a bundle folder from its manifest and ledger."""
    bundle = load_bundle(folder)
    manifest, ledger = bundle.manifest, read_ledger(bundle)
    parts = [
        f"# Bundle {manifest['id']}",
        "Gradient-boosted estimators of operator latency, one per family and phase. Made by `make release-model`; "
        "every number below is from `ledger.csv`, measured on GPUs that were held out whole.",
        "**Training GPUs:** " + ", ".join(manifest["gpus"]) + ".",
        f"Intervals are at the {manifest['level']:.0%} level. Errors are mean absolute percentage errors over the "
        "cells (engine x dtype) of a GPU, each cell counting the same; beside them the bare roofline bound and a "
        "2-parameter roofline `c0 + c1 * bound` fitted per dtype on the same training GPUs. Weights of the views and "
        "the ends of the intervals were set without the generation they are scored on; one number, the factor that "
        "stretches the intervals of an estimator, was chosen so that they cover GPUs as near to the level as they can.",
        "## Summary",
        summary_table(ledger),
        "## By class of card",
        CLASSES_SAY,
        class_table(ledger),
        "## For whom the intervals hold",
        *holds_section(ledger, manifest["level"]),
    ]
    for protocol, title in PROTOCOLS.items():
        parts += [f"## {title}", accuracy_table(ledger[(ledger["protocol"] == protocol) & (ledger["slice"] == "all")])]
    if (folder / FEWSHOT).exists():
        parts += fewshot_section(pd.read_csv(folder / FEWSHOT, keep_default_na=False, na_values=[""]))
    parts += [
        "## Training rows",
        _markdown([["source", "rows used", "flagged", "rejected"], *[_source(table) for table in manifest["tables"]]]),
        "Sources, licences and quirks: `datasets/README.md`. Recipe: `bundle.json`.",
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def update_page(page: Path, folder: Path) -> None:
    """Put the summary of a bundle's ledger between the accuracy marks of docs/accuracy.md."""
    ledger = read_ledger(load_bundle(folder))
    head, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    tail = rest.partition(MARKS[1])[2]
    text = (
        f"Bundle `{folder.name}`, mean absolute percentage error of operator latency, mean over GPUs (of 30 rows "
        "and more) of the mean over engines and dtypes; every cell is in "
        f"[models/{folder.name}](../models/{folder.name}/README.md). "
        "Coverage is that of the 80 % interval; siblings are H100 and H200.\n\n" + summary_table(ledger)
    )
    text += "\n\n" + CLASSES_SAY + "\n\n" + class_table(ledger)
    page.write_text(f"{head}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{tail}", encoding="utf-8")


def update_front(readme: Path, folder: Path) -> None:
    """Put what a bundle's ledger says in few words into the table of the front page: lines with the same first cell."""
    fresh = {row.split("|")[1]: row for row in front_rows(read_ledger(load_bundle(folder)))}
    lines = readme.read_text(encoding="utf-8").splitlines()
    known = [fresh.get(line.split("|")[1], line) if line.startswith("|") else line for line in lines]
    readme.write_text("\n".join(known) + "\n", encoding="utf-8")


def front_rows(ledger: pd.DataFrame) -> list[str]:
    """Lines of the front page's table: operators on a measured GPU, a sibling, and of unseen generations and vendors.

    Errors are means over operators, in brackets from the best to the worst; each the mean over GPUs of its cells.
    """
    whole = ledger[ledger["slice"] == "all"]
    amd = whole["gpu"].str.startswith("MI")
    unseen = whole["protocol"] == "generation-out"
    parts = {
        "operators, GPU measured": whole[whole["protocol"] == "rows-out"],
        "operators, sibling measured": whole[(whole["protocol"] == "gpu-out") & whole["gpu"].isin(SIBLINGS)],
        "operators, unseen NVIDIA generation": whole[unseen & ~amd],
        "operators, unseen vendor (AMD)": whole[unseen & amd],
    }
    return [_front_row(title, rows) for title, rows in parts.items()]


def _front_row(title: str, rows: pd.DataFrame) -> str:
    by_gpu = _with_rows(rows).groupby(["estimator", "gpu"])[["mape", "coverage", "roofline2_mape"]].mean()
    found = by_gpu.groupby("estimator").mean()
    mean, least, most = found.mean(), found.min(), found.max()
    error = f"{100 * mean['mape']:.0f} % ({100 * least['mape']:.0f} to {100 * most['mape']:.0f})"
    covered = f"{100 * mean['coverage']:.0f} % ({100 * least['coverage']:.0f} to {100 * most['coverage']:.0f})"
    return f"| {title} | {error} | {covered} | {100 * mean['roofline2_mape']:.0f} % |"


def summary_table(ledger: pd.DataFrame) -> str:
    """One line per operator: mean and worst GPU under each protocol, beside the baseline."""
    head = [
        "operator",
        "generation held out",
        "worst GPU",
        "shapes of LLM layers",
        "latency-weighted",
        "coverage",
        "2-parameter roofline",
        "sibling in training",
        "GPU in training",
    ]
    return _markdown([head, *(line for row in ROWS if (line := _summary_line(ledger, *row)))])


def _summary_line(ledger: pd.DataFrame, title: str, estimator: str, dtypes: tuple[str, ...]) -> list[str]:
    own = ledger[ledger["estimator"] == estimator]
    own = own[own["dtype"].isin(dtypes)] if dtypes else own

    def by_gpu(protocol: str, part: str = "all") -> pd.DataFrame:
        rows = _with_rows(own[(own["protocol"] == protocol) & (own["slice"] == part)])
        columns = ["mape", "latency_weighted", "coverage", "roofline2_mape"]
        return rows.groupby("gpu")[columns].mean()

    unseen, kin = by_gpu("generation-out"), by_gpu("gpu-out")
    if unseen.empty:
        return []
    worst = str(unseen["mape"].idxmax())
    return [
        title,
        percent(unseen["mape"].mean()),
        f"{percent(unseen['mape'].max())} ({worst})",
        percent(by_gpu("generation-out", "model-like")["mape"].mean()),
        percent(unseen["latency_weighted"].mean()),
        percent(unseen["coverage"].mean()),
        percent(unseen["roofline2_mape"].mean()),
        percent(kin["mape"].reindex(SIBLINGS).mean()),
        percent(by_gpu("rows-out")["mape"].mean()),
    ]


def class_table(ledger: pd.DataFrame) -> str:
    """One line per operator and class of cards: errors where the whole class, or a generation of it, was held out."""
    whole = ledger[ledger["slice"] == "all"]
    titles = {estimator: title for title, estimator, dtypes in ROWS if not dtypes}
    head = ["class", "operator", "class held out", "plain model", "coverage", "width", "generation held out"]
    lines = [head]
    for (group, estimator), rows in whole.assign(card_class=whole["gpu"].map(_card_class)).groupby(
        ["card_class", "estimator"]
    ):
        means = {name: _over_gpus(rows[rows["protocol"] == name]) for name in ("class-out", "generation-out")}
        alone, near = means["class-out"], means["generation-out"]
        if alone is None:
            continue
        figures = [percent(value) for value in (alone["mape"], alone[PLAIN].min(), alone["coverage"], alone["width"])]
        lines.append(
            [
                str(group),
                titles.get(str(estimator), "GEMM"),
                *figures,
                percent(near["mape"]) if near is not None else "–",
            ]
        )
    return _markdown(lines)


def holds_section(ledger: pd.DataFrame, level: float) -> list[str]:
    """Which operators of which cards had enough of their measurements in the intervals, and which had not."""
    whole, titles = ledger[ledger["slice"] == "all"], {name: title for title, name, dtypes in ROWS if not dtypes}
    lines = [["GPU", "holds", "does not (share in the interval)", "wider than need be"]]
    for title, protocol in TOLD.items():
        of_protocol = whole[whole["protocol"] == protocol]
        group = of_protocol["gpu"].map(_card_class) if protocol == "class-out" else "all"
        for card, rows in of_protocol.assign(card=group).groupby("card"):
            found = {name: _over_gpus(own) for name, own in rows.groupby("estimator")}
            shares = {
                titles.get(str(name), "GEMM"): float(one["coverage"]) for name, one in found.items() if one is not None
            }
            if not shares:
                continue
            low = [f"{name} ({percent(share)})" for name, share in shares.items() if share < level - FAR_BELOW]
            high = [name for name, share in shares.items() if share > level + FAR_ABOVE]
            rest = [name for name, share in shares.items() if level - FAR_BELOW <= share <= level + FAR_ABOVE]
            named = title if protocol != "class-out" else title.format(card)
            lines.append([named, *(", ".join(names) or "–" for names in (rest, low, high))])
    return [
        f"Of operators, held out as said; an interval holds where {percent(level - FAR_BELOW)} to "
        f"{percent(level + FAR_ABOVE)} of the measurements lie in it, mean over the GPUs of 30 rows and more.",
        _markdown(lines),
        "Not told by any measurement: attention on AMD, everything on Intel and Gaudi but whole batches, attention on "
        "Apple but for a few calls; there the interval is that of classes which were held out, and a guess as far as "
        "these are unlike. Of whole models `docs/accuracy.md` tells it by engine and GPU, and of groups that hold too "
        "little (`predictor reproduce NAME`): large models with experts in vLLM on H200, generation on H20, prompts of "
        "llama.cpp. Of one call of one GPU nothing is promised, only of many: errors of a GPU go together.",
    ]


def _card_class(name: str) -> str:
    return card_class(get_gpu(name))


def _with_rows(ledger: pd.DataFrame) -> pd.DataFrame:
    """The lines of GPUs that have enough rows of an operator for a mean over GPUs."""
    return ledger[ledger.groupby(["estimator", "protocol", "gpu"])["rows"].transform("sum") >= FEWEST_ROWS]


def _over_gpus(rows: pd.DataFrame) -> pd.Series | None:
    """Mean over GPUs with enough rows of the mean over their cells; None where there are none."""
    figures = _with_rows(rows).reindex(columns=["gpu", "mape", *PLAIN, "coverage", "width"])
    by_gpu = figures.groupby("gpu").mean()
    return by_gpu.mean() if len(by_gpu) else None


def fewshot_section(curve: pd.DataFrame) -> list[str]:
    """What rows that a user measures on an unseen GPU are worth, by `predictor calibrate`."""
    curve = curve.fillna({"engine": ""})
    engines = curve.groupby(["estimator", "gpu"])["engine"].transform("nunique")  # "" is one of them
    mixed, one = curve[curve["engine"] == ""], curve[(curve["engine"] != "") | (engines == 1)]
    return [
        "## Rows measured on a GPU whose generation was held out",
        "Error (and coverage of the interval) after `predictor calibrate` with so many random rows per op, mean over "
        "GPUs of the mean over engines and dtypes, on other rows. Two draws each; the prior was learned without the "
        "generation. Predicted: the error and coverage of what `predict` says after 100 rows, which rises with tokens "
        "and keeps to the bound; one draw, 150 other rows. Every cell is in `fewshot.csv`.",
        "Rows of all engines and dtypes mixed:",
        _fewshot_table(mixed),
        "Rows of one engine, all its dtypes:",
        _fewshot_table(one),
    ]


def _fewshot_table(curve: pd.DataFrame) -> str:
    each = curve.groupby(["estimator", "gpu", "engine", "rows"], dropna=False)[["mape", "coverage"]].mean()
    complete = each.unstack("rows").dropna(subset=[("mape", 100)])
    found = complete.groupby("estimator").mean()
    final = curve.groupby(["estimator", "gpu"])[["final_mape", "final_coverage"]].mean().groupby("estimator").mean()
    counts, predicted = sorted(curve["rows"].unique()), bool(final["final_mape"].notna().all())
    head = ["op", *(f"{count} rows" for count in counts), "100 rows: error left"]
    lines = [[*head, "100 rows: predicted"] if predicted else head]
    for name, row in found.iterrows():
        errors = [percent(row["mape", n]) + (f" ({percent(row['coverage', n])})" if n else "") for n in counts]
        line = [str(name), *errors, percent(row["mape", 100] / row["mape", 0])]
        said, covered = final.loc[name]
        lines.append([*line, f"{percent(said)} ({percent(covered)})"] if predicted else line)
    return _markdown(lines)


def accuracy_table(ledger: pd.DataFrame) -> str:
    """One line per estimator and GPU: mean over its cells."""
    columns = list(COLUMNS)
    found = ledger.groupby(["estimator", "gpu"])[columns].mean()
    found.insert(0, "rows", ledger.groupby(["estimator", "gpu"])["rows"].sum())
    head = ["op", "GPU", "rows", *COLUMNS.values()]
    lines = [
        [*map(str, key), f"{int(row['rows'])}", *(percent(row[c]) for c in columns)] for key, row in found.iterrows()
    ]
    return _markdown([head, *lines])


def _source(table: dict[str, object]) -> list[str]:
    return [str(table["name"]), *(str(table.get(name, 0)) for name in ("accepted", "flagged", "rejected"))]


def _markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
