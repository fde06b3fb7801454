"""Draws docs/img/gpus.svg: tokens per second of Llama-3.1-8B on eight GPUs, with 80 % intervals, by what is known.

python docs/figure.py              write it, and the pictures of docs/plots.md by the commands there (extra: docs)
python docs/figure.py --check      status 1 if its numbers are not what is predicted now; needs no Matplotlib
"""

from __future__ import annotations

import argparse
import html
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from predictor import get_gpu, predict
from predictor.estimators.bundle import load_bundle

PICTURE = Path(__file__).resolve().parent / "img" / "gpus.svg"
PAGE = Path(__file__).resolve().parent / "plots.md"
MODEL, BATCH = "Llama-3.1-8B", 8
# Colours that are told apart by all eyes and stand out on white and on black; the ink is a grey between the two.
INK = "#808890"
KINDS: Mapping[str, tuple[str, str]] = {
    "this GPU was measured": ("#2f81f7", "o"),
    "a sibling was measured": ("#1a9e77", "s"),
    "neither was measured": ("#d9730d", "D"),
}
MEASURED, SIBLING, UNSEEN = KINDS
GPUS: Mapping[str, str] = {
    "A100-SXM-80GB": MEASURED,
    "H100-SXM-80GB": MEASURED,
    "B200-SXM-180GB": MEASURED,
    "H20-96GB": SIBLING,
    "B300-SXM-288GB": SIBLING,
    "RTX-5090": UNSEEN,
    "MI355X": UNSEEN,
    "Apple-M4-Max": UNSEEN,
}


def main() -> None:
    """Draw the picture, or say that it is out of date."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if a number is out of date")
    found = predicted()
    if not parser.parse_args().check:
        draw(found)
        print(f"wrote {PICTURE}")
        draw_page()
    elif missing := stale(found):
        sys.exit(f"{PICTURE} lacks {', '.join(missing)}; run `python docs/figure.py`.")


def commands() -> list[str]:
    """The commands with --plot that docs/plots.md shows."""
    return re.findall(r"^\$ (.*--plot.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def draw_page() -> None:
    """Run the commands of docs/plots.md, with the files that it shows, and keep their pictures."""
    from outputs import BLOCK, printed

    with tempfile.TemporaryDirectory() as folder:
        for block in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
            if block["file"]:
                (Path(folder) / block["file"]).write_text(block["text"], encoding="utf-8")
        for command in commands():
            said = printed(command, Path(folder))
            drawn = Path(folder) / command.split()[-1]
            if not drawn.is_file():
                sys.exit(f"{command}: " + " ".join(said))
            shutil.copy(drawn, PICTURE.parent)
            print(f"wrote {PICTURE.parent / drawn.name}")


def predicted() -> dict[str, Any]:
    """GPU → report. Ends with an error where a GPU is not known as GPUS says."""
    found = {name: predict(MODEL, name, batch=BATCH) for name in GPUS}
    bundle = load_bundle()
    for name in found:
        kinship = bundle.kinship("attention_decode", get_gpu(name))
        if {"seen": MEASURED, "sibling": SIBLING}.get(kinship, UNSEEN) != GPUS[name]:
            sys.exit(f"error: {name} is known as {kinship}, not as one of which {GPUS[name]}; mend GPUS.")
    return found


def stale(found: Mapping[str, Any]) -> list[str]:
    """Labels that the picture should have and lacks."""
    drawn = html.unescape(PICTURE.read_text(encoding="utf-8"))
    return [text for name, report in found.items() for text in (name, label(report)) if text not in drawn]


def label(report: Any) -> str:
    """The number beside a point, with its interval."""
    value, low, high = (f"{x:,.0f}" for x in report.tokens_per_s)
    return f"{value} ({low}–{high})"


def draw(found: Mapping[str, Any]) -> None:
    """Write the picture; texts stay texts, and the same numbers give the same file."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    style = {"svg.fonttype": "none", "svg.hashsalt": "gpus", "font.family": "sans-serif", "font.size": 11}
    with mpl.rc_context({**style, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK}):
        picture, axes = plt.subplots(figsize=(8.4, 3.7), layout="constrained")
        for row, (name, report) in enumerate(reversed(found.items())):
            colour, marker = KINDS[GPUS[name]]
            value, low, high = report.tokens_per_s
            axes.plot([low, high], [row, row], color=colour, linewidth=5, alpha=0.45, solid_capstyle="round")
            axes.plot(value, row, marker, color=colour, markersize=8)
            axes.annotate(
                label(report), (high, row), (10, 0), textcoords="offset points", va="center", color=INK, fontsize=10
            )
        for kind, (colour, marker) in KINDS.items():
            axes.plot([], [], marker, color=colour, markersize=8, label=kind)
        axes.set_yticks(range(len(found)), list(reversed(found)))
        axes.set_xscale("log")
        axes.set_xlim(10, 12000)
        axes.set_xticks([10, 30, 100, 300, 1000, 3000], ["10", "30", "100", "300", "1,000", "3,000"])
        axes.minorticks_off()
        axes.set_xlabel(f"tokens per second, {MODEL}, batch {BATCH}, with 80 % intervals")
        axes.tick_params(length=0)
        axes.grid(axis="x", color=INK, alpha=0.25, linewidth=0.8)
        axes.spines[:].set_visible(False)
        picture.legend(loc="outside upper center", ncols=len(KINDS), frameon=False, labelcolor=INK)
        PICTURE.parent.mkdir(exist_ok=True)
        picture.savefig(PICTURE, transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(picture)


if __name__ == "__main__":
    main()
