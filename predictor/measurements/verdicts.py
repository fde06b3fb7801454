"""What the checks say of a table, counted: of operator calls or of whole runs."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

from predictor.measurements import checks, runs
from predictor.measurements.checks import ACCEPTED, FLAGGED, REJECTED
from predictor.measurements.runs import MEASURED, is_runs
from predictor.measurements.schema import read_table

NUMBER = r"(?<!\S)\d[\d.,]*(?=\s)"  # reasons that differ in a number only are counted together
CALLS, RUNS = ("family", "gpu", "engine"), ("model", "gpu", "engine")


def checked_table(path: Path) -> pd.DataFrame:
    """A table of either kind with status and reason."""
    return runs.check(runs.read_runs(path)) if runs.holds_runs(path) else checks.check(read_table(path))


def reasons(checked: pd.DataFrame) -> list[dict[str, Any]]:
    """rows, share, status and reason, the most frequent first."""
    kinds = checked.assign(reason=checked["reason"].str.replace(NUMBER, "…", regex=True))
    counts = kinds.groupby(["status", "reason"], observed=True).size().rename("rows").reset_index()
    counts = counts.assign(share=counts["rows"] / max(len(checked), 1))
    return [
        {str(name): value for name, value in row.items()}
        for row in counts.sort_values("rows", ascending=False, kind="stable").to_dict("records")
    ]


def by_group(checked: pd.DataFrame) -> pd.DataFrame:
    """Rows of each status by family (or model), GPU and engine."""
    keys = list(RUNS if runs.is_runs(checked.columns) else CALLS)
    counted = checked.groupby([*keys, "status"], observed=True).size().unstack("status", fill_value=0)
    statuses = [checks.ACCEPTED, checks.FLAGGED, checks.REJECTED]
    table = counted.reindex(columns=statuses, fill_value=0).reset_index().rename_axis(columns=None)
    return table.astype(dict.fromkeys(keys, str)).sort_values(keys, ignore_index=True)


MOST_ROWS = 2000
MEASUREMENTS = ("latency_s", *MEASURED)
MEANING = {
    ACCEPTED: "obeys physics and is used",
    FLAGGED: "believable, but not what the column means; kept and not trained on",
    REJECTED: "cannot be true",
}
PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data doctor: $title</title>
<style>
:root { color-scheme: light dark; --text: #1c2330; --faint: #5d6778; --ground: #f6f7f9; --card: #fff; --line: #dfe3ea;
  --accepted: #1a7f4b; --flagged: #9a6500; --rejected: #c02a37; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ef; --faint: #97a2b4; --ground: #14181f; --card: #1c222c;
  --line: #323b49; --accepted: #4cc38a; --flagged: #e2a93b; --rejected: #ff7b86; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem; background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.05rem; margin: 2.2rem 0 .6rem; }
p { color: var(--faint); margin: .2rem 0; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: .8rem; margin-top: 1.4rem; }
.card { background: var(--card); border: 1px solid var(--line); border-left-width: 4px; border-radius: .5rem;
  padding: .8rem 1rem; }
.card b { display: block; font-size: 1.6rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.card span { font-weight: 600; } .card p { font-size: .85rem; }
.accepted { border-left-color: var(--accepted); } .flagged { border-left-color: var(--flagged); }
.rejected { border-left-color: var(--rejected); }
.bar { display: flex; height: .5rem; border-radius: .25rem; overflow: hidden; margin-top: 1rem;
  background: var(--line); }
.bar i { min-width: 3px; } .bar i.a { background: var(--accepted); } .bar i.f { background: var(--flagged); }
.bar i.r { background: var(--rejected); }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--faint); font-weight: 600; white-space: nowrap; } tr:last-child td { border-bottom: 0; }
td { white-space: nowrap; } td.why { white-space: normal; min-width: 22rem; } td.n, th.n { text-align: right; }
td.s-accepted { color: var(--accepted); } td.s-flagged { color: var(--flagged); }
td.s-rejected { color: var(--rejected); }
</style>
</head>
<body>
<h1>Data doctor</h1>
<p>$title</p>
<p>$summary</p>
<div class="cards">$cards</div>
<div class="bar">$bar</div>
<h2>By $groups</h2>
$by_group
<h2>Reasons</h2>
$reasons
<h2>Rows that are flagged or rejected</h2>
$rows
<h2>Not read</h2>
$unread
</body>
</html>
""")


def page(checked: pd.DataFrame, title: str, unread: Sequence[str] = ()) -> str:
    """The page of a checked table; unread: lines on what its files held and no row says."""
    runs = is_runs(checked.columns)
    counts = {name: int((checked["status"] == name).sum()) for name in MEANING}
    bad = checked[checked["status"] != ACCEPTED]
    return PAGE.substitute(
        title=escape(title),
        summary=f"{len(checked):,} {'runs' if runs else 'operator calls'}",
        cards="".join(
            f'<div class="card {name}"><b>{counts[name]:,}</b><span>{name}</span><p>{text}</p></div>'
            for name, text in MEANING.items()
        ),
        bar="".join(f'<i class="{name[0]}" style="flex:{count}"></i>' for name, count in counts.items() if count),
        groups=f"{'model' if runs else 'family'}, GPU and engine",
        by_group=_table(by_group(checked), "There is no row."),
        reasons=_table(pd.DataFrame(_reasons(checked)), "There is no row."),
        rows=_cut(len(bad)) + _table(_told(bad.head(MOST_ROWS)), "There is none."),
        unread=_table(_unread(unread), "Everything was read."),
    )


def _reasons(checked: pd.DataFrame) -> list[dict[str, str]]:
    return [
        {
            "rows": f"{reason['rows']:,}",
            "share": f"{100 * reason['share']:.1f} %",
            "status": reason["status"],
            "reason": reason["reason"],
        }
        for reason in reasons(checked)
        if reason["status"] != ACCEPTED
    ] or [{"rows": f"{len(checked):,}", "share": "100.0 %", "status": ACCEPTED, "reason": ""}][: len(checked)]


def _cut(rows: int) -> str:
    return f"<p>The first {MOST_ROWS:,} of {rows:,}.</p>" if rows > MOST_ROWS else ""


def _told(rows: pd.DataFrame) -> pd.DataFrame:
    """The number of the row, its verdict, what was measured, and the other columns that hold something."""
    told = [name for name in (*MEASUREMENTS, *rows.columns) if name in rows and name not in ("status", "reason")]
    told = [name for name in dict.fromkeys(told) if (rows[name].notna() & (rows[name].astype(str) != "")).any()]
    return rows[["status", "reason", *told]].rename_axis("row").reset_index()


def _unread(lines: Sequence[str]) -> pd.DataFrame:
    """Lines such as "not read, 2 rows: why" as a table."""
    parts = [line.removeprefix("not read, ").partition(": ") for line in lines]
    return pd.DataFrame({"what": [what for what, _, _ in parts], "reason": [why for _, _, why in parts]})


def _table(frame: pd.DataFrame, nothing: str) -> str:
    if frame.empty:
        return f"<p>{nothing}</p>"
    numeric = {name: pd.api.types.is_numeric_dtype(frame[name]) or name in ("rows", "share") for name in frame}
    head = "".join(f"<th{_class('n' if numeric[name] else '')}>{escape(str(name))}</th>" for name in frame)
    body = "".join(
        "<tr>" + "".join(_cell(str(name), cell, numeric[name]) for name, cell in zip(frame, row, strict=True)) + "</tr>"
        for row in frame.itertuples(index=False, name=None)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(name: str, cell: Any, numeric: bool) -> str:
    if numeric and not isinstance(cell, str):
        text = "" if cell != cell else f"{cell:,.0f}" if cell == round(cell) and abs(cell) < 1e15 else f"{cell:.4g}"
    else:
        text = str(cell)
    kind = (
        "why" if name == "reason" else "n" if numeric else f"s-{text}" if name == "status" and text in MEANING else ""
    )
    return f"<td{_class(kind)}>{escape(text)}</td>"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
