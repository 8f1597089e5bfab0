"""Pages that are made when the site is built: the command line, from what ``--help`` prints, and the model cards."""

import contextlib
import io
import os
import textwrap

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from worldgym.checkpoints import shipped
from worldgym.cli import COMMANDS, main

PAGE = "reference/command-line.md"
PARTS = {"train": ("tokenizer", "transformer")}
WIDTH = "80"
INTRODUCTION = """# Command line

Each command prints this with `--help`. A command exits with 0, with 2 for an error that it explains on stderr, and with
130 when it was interrupted; the same command, or the same with `--resume`, then continues.

"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to the site. One that the navigation lacks makes a strict build fail."""
    files.append(File.generated(config, PAGE, content=command_line()))
    for name, folder in shipped().items():
        files.append(File.generated(config, f"reference/{name}.md", abs_src_path=str(folder / "README.md")))
    return files


def command_line() -> str:
    """The page's Markdown: a table of the commands, and the help of each."""
    rows = [f"| [`{name}`](#{_anchor(name)}) | {summary} |" for name, summary in COMMANDS.items()]
    lines = [(name, *part.split()) for name in COMMANDS for part in PARTS.get(name, ("",))]
    sections = [_section(line, set_anchor=line[1:] in ((), PARTS.get(line[0], ("",))[:1])) for line in lines]
    return INTRODUCTION + "\n".join(["| command | what it does |", "| --- | --- |", *rows, "", *sections])


def _section(line: tuple[str, ...], set_anchor: bool) -> str:
    anchor = f" {{ #{_anchor(line[0])} }}" if set_anchor else ""
    return f"## worldgym {' '.join(line)}{anchor}\n\n```text\n{help_text(line)}\n```\n"


def _anchor(command: str) -> str:
    return f"worldgym-{command}"


def help_text(line: tuple[str, ...]) -> str:
    """What a command prints with ``--help``.

    Raises:
        RuntimeError: if it prints an error instead.
    """
    printed, width = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDTH
    try:
        with contextlib.redirect_stdout(printed):
            status = _status([*line, "--help"])
    finally:
        os.environ.pop("COLUMNS") if width is None else os.environ.update(COLUMNS=width)
    if status:
        raise RuntimeError(f"worldgym {' '.join(line)} --help: exit status {status}")
    return "\n".join(line for text in printed.getvalue().splitlines() for line in _lines(text)).strip()


def _status(arguments: list[str]) -> int | str | None:
    try:
        return main(arguments)
    except SystemExit as stopped:
        return stopped.code


def _lines(text: str) -> list[str]:
    """One printed line: a description is wrapped, a ruler is left out."""
    if not text.strip(" -"):
        return [] if "-" in text else [""]
    return [text.rstrip()] if text.startswith(" ") else textwrap.wrap(text, int(WIDTH), break_on_hyphens=False)
