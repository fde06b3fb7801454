"""Builds the wheel, checks what is in it, and uses it in a fresh environment far from the source tree."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
LARGEST_BYTES = 45_000_000
HEAVY = ("torch", "mlflow", "sklearn", "matplotlib", "pandas", "xgboost", "typer", "rich")
IMPORT = f"import sys, predictor; print([name for name in {HEAVY!r} if name in sys.modules])"
PREDICT = ("predict", "Llama-3.1-8B", "--gpu", "H100", "--gpu", "L4", "--json")


def main() -> None:
    """Any surprise ends with a message and status 1."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        wheel = build(folder / "dist")
        problems = surprises(wheel)
        if problems:
            sys.exit("\n".join(f"error: {problem}" for problem in problems))
        python = install(wheel, folder / "venv")
        use(python, folder)
    print(f"wheel: {wheel.name} is complete and works")


def build(folder: Path) -> Path:
    """The wheel, made from the source tree in an environment of its own."""
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", folder, REPO], check=True, stdout=-3)
    (wheel,) = folder.glob("*.whl")
    return wheel


def surprises(wheel: Path) -> list[str]:
    """What is missing from the wheel and what should not be in it, one sentence each."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    info = {name for name in names if ".dist-info/" in name}
    modules = {str(path.relative_to(REPO)) for path in (REPO / "predictor").rglob("*.py")}
    catalogues = {str(path.relative_to(REPO)) for path in (REPO / "predictor" / "catalog").glob("*.toml")}
    page = {str(path.relative_to(REPO)) for path in (REPO / "predictor" / "web" / "static").iterdir()}
    bundles = [name for name in names if name.startswith("predictor/models/") and name.endswith("/bundle.json")]
    problems = [f"{name} is not in the wheel." for name in sorted((modules | catalogues | page) - names)]
    problems += [
        f"{name} is in the wheel; only predictor/ belongs there."
        for name in sorted(names - info)
        if not name.startswith("predictor/")
    ]
    problems += [
        f"{name} is code in a bundle."
        for name in sorted(names)
        if name.startswith("predictor/models/") and name.endswith((".py", ".pyc", ".pkl"))
    ]
    if not bundles:
        problems.append("the wheel has no bundle; run `make release-model` first.")
    for bundle in bundles:
        if not any(name.startswith(bundle.removesuffix("bundle.json")) and name.endswith(".ubj") for name in names):
            problems.append(f"{bundle} has no .ubj file beside it.")
    if wheel.stat().st_size > LARGEST_BYTES:
        problems.append(f"the wheel has {wheel.stat().st_size:,} bytes; at most {LARGEST_BYTES:,}.")
    return problems


def install(wheel: Path, folder: Path) -> Path:
    """The Python of a new environment that has the wheel and its dependencies, no extras."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel], check=True)
    return python


def use(python: Path, folder: Path) -> None:
    """Import and predict as a user would, from a folder without the sources."""
    imported = subprocess.run([python, "-c", IMPORT], cwd=folder, check=True, capture_output=True, text=True).stdout
    if imported.strip() != "[]":
        sys.exit(f"error: `import predictor` loads {imported.strip()}; import them where they are used.")
    command = [python.parent / "predictor", *PREDICT]
    answer = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout
    reports = json.loads(answer)
    if [report["gpu"] for report in reports] != ["H100-SXM-80GB", "L4"] or not all(r["ttft_s"] > 0 for r in reports):
        sys.exit(f"error: unexpected prediction: {answer}")


if __name__ == "__main__":
    main()
