"""The pages say what the code says: generated pages, outputs of commands, worked examples, numbers, links."""

import ast
import doctest
import importlib
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

import predictor
from predictor import load_bundle

REPO = Path(__file__).resolve().parents[1]
README = REPO / "README.md"
PAGES = sorted(
    [
        README,
        REPO / "CHANGELOG.md",
        REPO / "CONTRIBUTING.md",
        *(REPO / "docs").glob("*.md"),
        *(REPO / "models").glob("*/README.md"),
    ]
)
LONGEST_README, LONGEST_LINE = 150, 160
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)")
needs_terminal = pytest.mark.skipif(sys.platform == "win32", reason="commands are shown as a Unix terminal shows them")


def script(folder: str, name: str) -> ModuleType:
    """A script of a folder that is no package."""
    sys.path.insert(0, str(REPO / folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(REPO / folder))


def name_of(page: Path) -> str:
    return str(page.relative_to(REPO))


# What the code says


def test_generated_pages_are_what_the_code_says():
    drifted = [path.name for path, _ in script("docs", "generate").drifted()]
    assert not drifted, "run `python docs/generate.py`"


def test_a_page_that_the_code_left_behind_is_found(monkeypatch):
    generate = script("docs", "generate")
    monkeypatch.setattr(predictor, "__all__", [name for name in predictor.__all__ if name != "predict"])
    assert [path.name for path, _ in generate.drifted()] == ["python.md"]


@needs_terminal
@pytest.mark.parametrize(
    "page", [page for page in PAGES if "<!-- run -->" in page.read_text(encoding="utf-8")], ids=name_of
)
def test_commands_print_what_a_page_shows(page):
    outputs = script("docs", "outputs")
    text = page.read_text(encoding="utf-8")
    assert outputs.PACE.sub("", outputs.refreshed(page)) == outputs.PACE.sub("", text), "run `python docs/outputs.py`"


def test_the_picture_shows_what_is_predicted():
    figure = script("docs", "figure")
    assert figure.stale(figure.predicted()) == [], "run `python docs/figure.py`"
    assert figure.PICTURE.stat().st_size < 100_000


def test_pictures_of_the_page_are_those_that_its_commands_draw():
    figure = script("docs", "figure")
    names = [command.split()[-1] for command in figure.commands()]
    page = figure.PAGE.read_text(encoding="utf-8")
    assert len(names) == len(set(names)) >= 6
    assert sorted(names) == sorted(re.findall(r"\]\(img/([\w.-]+)\)", page)), "run `python docs/figure.py`"
    assert all((figure.PICTURE.parent / name).stat().st_size < 250_000 for name in names)


def test_worked_examples_of_the_front_page_run():
    (example,) = python_blocks(README)
    test = doctest.DocTestParser().get_doctest(example, {}, "README.md", "README.md", 0)
    assert len(example.splitlines()) == 10
    assert doctest.DocTestRunner().run(test).failed == 0


def test_what_pages_import_is_there():
    for page in PAGES:
        for block in python_blocks(page):
            tree = ast.parse(doctest.script_from_examples(block) if block.startswith(">>>") else block)
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("predictor"):
                    module = importlib.import_module(str(node.module))
                    assert all(hasattr(module, alias.name) for alias in node.names), f"{name_of(page)}: {block}"


def python_blocks(page: Path) -> list[str]:
    found = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    # Signatures of docs/python.md look like calls whose arguments have types: they are no code to run.
    return [] if page.name == "python.md" else found


# What the ledger says


def test_accuracy_of_the_front_page_is_that_of_the_ledger():
    card, bundle = script("training", "card"), load_bundle()
    lines = README.read_text(encoding="utf-8").splitlines()
    assert not [row for row in card.front_rows(card.read_ledger(bundle)) if row not in lines]


def test_accuracy_of_its_page_is_that_of_the_ledger(tmp_path):
    page = tmp_path / "accuracy.md"
    text = (REPO / "docs" / "accuracy.md").read_text(encoding="utf-8")
    page.write_text(text, encoding="utf-8")
    script("training", "card").update_page(page, load_bundle().path)
    assert page.read_text(encoding="utf-8") == text


# How they read


def test_the_front_page_is_short():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LONGEST_README
    assert not [line for line in lines if len(line) > LONGEST_LINE and not line.startswith("|")]


def test_every_page_is_in_the_site():
    config = (REPO / "mkdocs.yml").read_text(encoding="utf-8")
    assert not [page.name for page in (REPO / "docs").glob("*.md") if f": {page.name}\n" not in config]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    for target, anchor in LINK.findall(text):
        found = (page.parent / target).resolve() if target else page
        assert found.is_file(), f"{name_of(page)} links to {target}"
        assert found.is_relative_to(REPO)
        assert not anchor or anchor in anchors(found), f"{name_of(page)} links to {target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as code hosts make them."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    found, seen = set(), Counter[str]()
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found
