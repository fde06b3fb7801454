"""Lets MkDocs build a site of the pages as they lie in the repository.

README.md becomes the first page. Files outside docs/ that a page links to become part of the site, and so do those
that they link to; links are turned from the places in the repository to those in the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

REPO = Path(__file__).resolve().parents[1]
FRONT, FIRST = "README.md", "index.md"
# A link or an image of Markdown whose target is no URL and no anchor of its own page.
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")


def on_files(files: Any, config: Any) -> Any:
    """Add what the pages link to outside docs/, and what that links to."""
    waiting = [FRONT, *(f"docs/{file.src_uri}" for file in files if file.src_uri.endswith(".md"))]
    known = {FRONT, *waiting}
    while waiting:
        source = waiting.pop()
        if not source.startswith("docs/"):
            files.append(File.generated(config, place_in_site(source), abs_src_path=str(REPO / source)))
        if not source.endswith(".md"):
            continue
        for target, _ in LINK.findall((REPO / source).read_text(encoding="utf-8")):
            path = place_in_repository(source, target)
            if path not in known and not path.startswith("docs/") and (REPO / path).is_file():
                known.add(path)
                waiting.append(path)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn the links of a page; what is not in the site stays as it is, and the strict build refuses it."""
    here = page.file.src_uri
    source = next(s for s in (FRONT, f"docs/{here}", here) if place_in_site(s) == here and (REPO / s).is_file())

    def turned(link: re.Match[str]) -> str:
        place = place_in_site(place_in_repository(source, link[1]))
        return posixpath.relpath(place, posixpath.dirname(here) or ".") + (link[2] or "")

    return LINK.sub(turned, markdown)


def place_in_repository(source: str, target: str) -> str:
    """Path in the repository of what a page at `source` links to.

    >>> place_in_repository("docs/accuracy.md", "../models/base-5/README.md")
    'models/base-5/README.md'
    """
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def place_in_site(path: str) -> str:
    """Where a file of the repository is in the site.

    >>> place_in_site("README.md"), place_in_site("docs/jobs.md"), place_in_site("models/base-5/README.md")
    ('index.md', 'jobs.md', 'models/base-5/README.md')
    """
    return FIRST if path == FRONT else path.removeprefix("docs/")
