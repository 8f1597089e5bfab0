"""The Python of the README, the site's pages and the model cards runs as it stands; their commands can be parsed."""

import importlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from worldgym.cli import COMMANDS, main
from worldgym.data.episode import Episode

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name != "experiments.md")  # dated: old options
CARDS = sorted((ROOT / "checkpoints").glob("*/README.md"))
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", *CARDS, *PAGES]
COLUMNS = 80
FEWER = {"range(100)": "range(3)", "num_envs=32": "num_envs=2"}  # to save time, in the README


def fenced(document: Path) -> list[tuple[str, str]]:
    """The language and the content of each fenced block."""
    return re.findall(r"^```([\w-]*)\n(.*?)^```$", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def python_of(document: Path) -> str:
    """The Python blocks, one after the other in one namespace."""
    return "\n".join(content for language, content in fenced(document) if language == "python")


def commands_of(document: Path) -> list[str]:
    """The lines of shell blocks that call ``worldgym``."""
    blocks = [content.replace("\\\n", " ") for language, content in fenced(document) if language in ("", "sh", "bash")]
    return [line for block in blocks for line in block.splitlines() if line.startswith("worldgym ")]


def _named(document: Path) -> str:
    return str(document.relative_to(ROOT))


def _with_python(document: Path) -> Any:
    calls = re.search(r"(make|make_vec_env)\(\s*\"Simulator-MetaWorld-v0", python_of(document))
    marks = [pytest.mark.simulator] if calls else []
    return pytest.param(document, marks=marks, id=_named(document))


@pytest.fixture(scope="session")
def lerobot_dataset(tmp_path_factory: pytest.TempPathFactory, make_episode: Callable[..., Episode]) -> Path:
    """Two episodes as a LeRobot dataset."""
    folder = tmp_path_factory.mktemp("lerobot")
    for seed in range(2):
        make_episode("pusht", "random", seed).save(folder / "recordings" / "pusht" / f"{seed}.safetensors")
    assert main(["export-dataset", "--to", "lerobot", str(folder / "recordings"), "--out", str(folder / "pusht")]) == 0
    return folder / "pusht"


@pytest.fixture
def working_folder(tmp_path: Path, cartpole_twin: Path, lerobot_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pages' commands have left behind: a twin of CartPole, and recordings that were converted."""
    (tmp_path / "twins").mkdir()
    (tmp_path / "twins" / "cartpole").symlink_to(cartpole_twin)
    assert main(["convert", "lerobot", str(lerobot_dataset), "--out", str(tmp_path / "data" / "pusht")]) == 0
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("working_folder")
@pytest.mark.parametrize("document", [_with_python(document) for document in DOCUMENTS if python_of(document)])
def test_the_python_of_a_document_runs(document: Path) -> None:
    code = python_of(document)
    for written, run in FEWER.items():
        code = code.replace(written, run) if document == README else code
    exec(compile(code, _named(document), "exec"), {"__name__": document.stem})


def test_every_tutorial_but_that_of_the_browser_has_python() -> None:
    without = {document.name for document in (ROOT / "docs" / "tutorials").glob("*.md") if not python_of(document)}
    assert without == {"play.md"}


def test_all_python_of_the_site_is_marked_as_such() -> None:
    assert not [path for path in PAGES for language, _ in fenced(path) if language == "py"]


@pytest.mark.parametrize(
    ("document", "line"),
    [pytest.param(path, line, id=f"{_named(path)}: {line}") for path in DOCUMENTS for line in commands_of(path)],
)
def test_a_command_line_can_be_parsed(document: Path, line: str) -> None:
    _, name, *arguments = shlex.split(line, comments=True)
    assert name in COMMANDS, f"{document}: {line}"
    assert importlib.import_module(f"worldgym.cli.{name.replace('-', '_')}").parse(arguments)


@pytest.mark.parametrize("document", DOCUMENTS, ids=_named)
def test_commands_and_targets_in_the_text_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert set(re.findall(r"`worldgym\s([a-z][a-z0-9-]*)", text)) <= set(COMMANDS)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"`make\s([a-z-]+)`", text)) <= set(targets)


def test_the_reader_of_documents_finds_blocks_and_commands(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```\nworldgym demo \\\n  --steps 3\nls\n```\n```python\nx = 1\n```\n```python\ny = 2\n```\n")
    assert [line.split() for line in commands_of(page)] == [["worldgym", "demo", "--steps", "3"]]
    assert python_of(page) == "x = 1\n\ny = 2\n"


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_code_fits_the_width_of_a_page(page: Path) -> None:
    lines = [line for language, content in fenced(page) if language != "text" for line in content.splitlines()]
    assert [line for line in lines if len(line) > COLUMNS] == []
