"""What points where: imports go one way, the package stays light, files stay small."""

import ast
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
PACKAGE = REPO / "predictor"
LONGEST_FILE = 400

# A module imports from its own layer or from lower ones; a package counts as one module.
LAYERS = (
    ("units", "errors", "elementwise"),
    ("gpu_spec", "files", "champion"),
    ("recipe", "gpu", "gpu_lint", "ops", "values", "released", "gguf", "boosters"),
    ("roofline", "schema", "workloads", "kinship", "line", "interval", "cost", "engines", "topology"),
    ("memory_doubt", "memory_features", "weight_files"),
    ("features", "memory", "checks", "guard", "request", "cells", "sweep_values"),
    ("training_memory",),
    ("capacity",),
    ("reader_cli", "floors", "report", "envelope", "similarity"),
    ("prior",),
    ("correction",),
    ("estimator", "dataset"),
    ("rehearsal",),
    ("corrections",),
    ("bundle",),
    ("prediction", "fit"),
    ("op_lines", "sums"),
    ("remarks",),
    ("static_batch",),
    ("training_step", "steps", "torch_ops", "op_tables"),
    ("scheduler", "tracing"),
    ("serving",),
    ("training_report", "pools"),
    ("rate_matching",),
    ("disaggregated",),
    ("answering",),
    ("advice", "streams", "backends", "runs"),
    ("verdicts", "ingest"),
    ("verdict_page",),
    ("rows", "sweep"),
    ("batch", "frames", "outputs"),
    ("pyfunc", "run_errors"),
    ("curves",),
    ("evaluate", "holdout", "tables", "learn_on", "importance"),
    ("tune",),
    ("suggest", "regressor"),
    ("bench_ops", "bench_device"),
    ("bench",),
    ("calibration", "fewshot", "monitor", "cell_lines"),
    ("ledger", "calibrate", "comparison"),
    ("entries",),
    ("train", "promotion", "forgetting"),
    ("warm_start", "run_record", "plots"),
    ("tracking",),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
HEAVY = ("torch", "mlflow", "sklearn", "matplotlib", "optuna", "pandas", "xgboost", "typer", "rich")
CLIENTS = ("datasets", "docs", "training", "models", "notebooks", "tests", "benchmarks")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def unit(path: Path) -> str:
    """Which module or package of predictor a file belongs to; "" for predictor/__init__.py."""
    return "" if path == PACKAGE / "__init__.py" else path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it, for type checkers too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module else set()
    return names


def test_every_module_has_a_layer():
    assert {unit(path) for path in modules()} - {""} == set(LEVEL)


def test_imports_point_from_higher_to_lower_layers():
    wrong = [
        f"{path.relative_to(REPO)} imports {name}"
        for path in modules()
        if unit(path)
        for name in imported(path)
        if name.startswith("predictor.")
        and (below := name.split(".")[1]) != unit(path)
        and LEVEL.get(below, 0) > LEVEL[unit(path)]
    ]
    assert not wrong


def test_nothing_in_the_package_imports_its_clients():
    wrong = [f"{path}: {name}" for path in modules() for name in imported(path) if name.split(".")[0] in CLIENTS]
    assert not wrong


def test_top_level_folders_are_no_packages():
    assert not [folder for folder in CLIENTS if (REPO / folder / "__init__.py").exists()]


def test_released_bundles_hold_no_code():
    assert not [path for path in (REPO / "models").rglob("*") if path.suffix in (".py", ".pyc", ".pkl")]


def test_importing_the_package_is_light():
    code = f"import sys, predictor; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == ""


def test_the_command_line_starts_without_heavy_modules():
    heavy = [name for name in HEAVY if name != "typer"] + ["numpy"]
    code = f"import sys, predictor.cli; print(*[name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == ""


def test_mlflow_has_two_importers():
    users = {unit(path) for path in modules() if any(name.split(".")[0] == "mlflow" for name in imported(path))}
    assert users <= {"tracking", "pyfunc"}


def test_files_are_short():
    sources = [path for folder in ("predictor", *CLIENTS, ".ci") for path in (REPO / folder).rglob("*.py")]
    long = [str(path) for path in sources if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST_FILE]
    assert not long


def test_every_module_has_a_docstring():
    assert not [str(p) for p in modules() if not ast.get_docstring(ast.parse(p.read_text(encoding="utf-8")))]
