"""The files beside the code agree with it: citation, issue templates, navigation of the site."""

import configparser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
GENERATED = {"reference/command-line.md"}


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_citation_has_the_version_of_the_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    citation = read_yaml("CITATION.cff")
    assert citation["version"] == setup["metadata"]["version"]
    assert citation["license"] == setup["metadata"]["license"]
    assert {"cff-version", "title", "message", "authors"} <= set(citation)


def test_issue_templates_are_forms() -> None:
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").iterdir():
        form = read_yaml(str(path.relative_to(ROOT)))
        assert {"name", "description", "body"} <= set(form)
        assert all(field["attributes"]["label"] for field in form["body"])


def _pages(navigation: Any) -> Iterator[str]:
    for entry in navigation:
        (value,) = entry.values()
        yield from [value] if isinstance(value, str) else _pages(value)


def test_the_navigation_has_every_page_and_every_card() -> None:
    docs = ROOT / "docs"
    written = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    cards = {f"reference/{path.parent.name}.md" for path in (ROOT / "checkpoints").glob("*/README.md")}
    found = list(_pages(read_yaml("mkdocs.yml")["nav"]))
    assert sorted(found) == sorted(written | cards | GENERATED)
