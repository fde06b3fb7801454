"""What points where: imports go one way, the package stays light, files stay small."""

import ast
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

REPO = Path(__file__).resolve().parents[1]
PACKAGE = REPO / "predictor"
LONGEST_FILE = 500
MOST_AT_THE_FRONT = 12

# Ground first: a module imports from its own row or from those above; a package counts as one module.
LAYERS = (
    ("moved", "errors", "units", "values", "elementwise", "files", "table_files", "shipped", "ubjson", "boosters"),
    ("ops",),  # what hardware executes
    ("hardware",),  # GPUs and their bounds
    ("workloads",),  # what people run
    ("memory",),
    ("measurements",),
    ("estimators",),  # operator × GPU → latency
    ("latency",),  # operators → steps, serving, training
    ("prediction",),  # request → answer
    ("planning",),  # which GPU, how many
    ("plotting",),  # answers → pictures
    ("learning",),  # measurements → bundle
    ("registry",),  # which bundle is the champion
    ("web",),  # the page
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
HEAVY = (
    "torch",
    "mlflow",
    "sklearn",
    "matplotlib",
    "optuna",
    "pandas",
    "xgboost",
    "typer",
    "rich",
    "starlette",
    "uvicorn",
)
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


def test_the_front_is_short():
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_AT_THE_FRONT


def test_every_package_has_a_face():
    folders = {path.parent for path in modules()}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").is_file()]


def test_faces_hand_out_what_they_list():
    """Each name that a face lists has a line in its docstring, is what type checkers see, and exists."""
    for path in PACKAGE.rglob("__init__.py"):
        text = path.read_text(encoding="utf-8")
        if "attach(" not in text or path.parent == PACKAGE:
            continue
        name = ".".join(path.parent.relative_to(REPO).parts)
        face, tree = import_module(name), ast.parse(text)
        listed = [line.split()[0] for line in ast.get_docstring(tree).splitlines() if "  " in line]
        typed = [a.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for a in node.names if a.asname]
        assert sorted(listed) == sorted(typed) == sorted(face.__all__), name
        assert all(not isinstance(getattr(face, each), ModuleType) for each in listed), name


def test_no_two_packages_import_each_other():
    """Packages at every depth, their sub-packages as packages of their own; modules of one folder may."""
    arrows: dict[str, set[str]] = {}
    for path in modules():
        here = ".".join(path.parent.relative_to(REPO).parts)
        for name in imported(path):
            there = package_of(name)
            if there and not nested(here, there):
                arrows.setdefault(here, set()).add(there)
    assert not [cycle for start in arrows if (cycle := way_back(start, arrows))]


def package_of(name: str) -> str:
    """The package of `predictor.…` in which an imported name lies; "" for other distributions and the root."""
    parts = name.split(".")
    if parts[0] != "predictor":
        return ""
    folder, found = PACKAGE, "predictor"
    for part in parts[1:]:
        folder /= part
        if not folder.is_dir():
            break
        found += f".{part}"
    return "" if found == "predictor" else found


def nested(one: str, other: str) -> bool:
    """Whether one of two packages lies in the other, or both are one."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def way_back(start: str, arrows: dict[str, set[str]]) -> list[str]:
    """Packages along which `start` imports itself, if any."""
    seen: set[str] = set()
    ways = [[start, there] for there in sorted(arrows[start])]
    while ways:
        way = ways.pop()
        if way[-1] == start:
            return way
        if way[-1] not in seen:
            seen.add(way[-1])
            ways += [[*way, there] for there in sorted(arrows.get(way[-1], ()))]
    return []


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


def left_by(*arguments: str) -> set[str]:
    """Names of all modules that a command leaves imported."""
    code = (
        "import sys; from predictor.cli import main; status = main(sys.argv[1:])\n"
        "print(*sys.modules, file=sys.stderr); sys.exit(status)"
    )
    wide = {**os.environ, "COLUMNS": "200"}  # a table that fits
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True, env=wide
    )
    return set(result.stderr.split())


def test_help_imports_no_command():
    commands = {f"predictor.cli.{path.stem}" for path in (PACKAGE / "cli").glob("*.py")}
    assert not left_by("--help") & {*commands, *HEAVY, "numpy", "pydantic"} - {"typer"}


def test_a_command_imports_no_other():
    commands = {f"predictor.cli.{path.stem}" for path in (PACKAGE / "cli").glob("*.py")}
    assert left_by("models", "Llama-3.1-8B", "--json") & commands == {"predictor.cli.models"}


def test_memory_of_serving_loads_no_booster():
    """Nor tables, of which it has none; a run that fits asks no estimator."""
    left = left_by("memory", "Llama-3.1-8B", "--gpu", "A100")
    assert left & {"xgboost", "pandas", "pyarrow", "scipy", "sklearn", "rich", "pydantic"} == set()
    assert "predictor.estimators.estimator" not in left


def test_a_prediction_needs_no_tables():
    left = left_by("predict", "Llama-3.1-8B", "--gpu", "A100")
    assert "xgboost" in left
    assert left & {"pandas", "pyarrow", "scipy.sparse", "scipy.special", "sklearn", "rich", "pydantic"} == set()


def test_mlflow_has_two_importers():
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in modules()
        if any(name.split(".")[0] == "mlflow" for name in imported(path))
    }
    assert users <= {"registry/tracking.py", "registry/mlflow_model.py"}


def test_files_are_short():
    sources = [path for folder in ("predictor", *CLIENTS, ".ci") for path in (REPO / folder).rglob("*.py")]
    long = [str(path) for path in sources if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST_FILE]
    assert not long


def test_every_module_has_a_docstring():
    assert not [str(p) for p in modules() if not ast.get_docstring(ast.parse(p.read_text(encoding="utf-8")))]
