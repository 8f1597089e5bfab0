"""Text is written and read as UTF-8, whatever the encoding of the system: every call names its encoding."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path for folder in ("worldgym", "envs", "agents", "play", "checkpoints") for path in (ROOT / folder).rglob("*.py")
)


def calls_without_encoding(source: str) -> list[int]:
    """Lines of calls that read or write text in the encoding of the system."""
    return [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and _is_unclear(node)]


def _is_unclear(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    keywords = {keyword.arg for keyword in call.keywords}
    if "encoding" in keywords:
        return False
    if ast.unparse(call.func) == "Image.open":  # pictures are bytes
        return False
    if name == "open":
        # The mode is the first argument of path.open(), and the second one of open().
        modes = call.args[0 if isinstance(call.func, ast.Attribute) else 1 :][:1]
        modes += [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
        return not any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes)
    if name in ("run", "Popen", "check_output"):
        return not keywords.isdisjoint({"text", "universal_newlines"})
    return name in ("read_text", "write_text")


@pytest.mark.parametrize(
    "call",
    [
        "p.read_text()",
        "p.write_text('x')",
        "open(p)",
        "open(p, 'w')",
        "p.open()",
        "p.open(mode='a')",
        "run(c, text=True)",
    ],
)
def test_a_call_without_encoding_is_found(call: str) -> None:
    assert calls_without_encoding(f"\n{call}") == [2]


@pytest.mark.parametrize(
    "call",
    [
        "p.read_text(encoding='utf-8')",
        "open(p, 'rb')",
        "p.open('wb')",
        "p.open(mode='rb')",
        "run(c)",
        "p.read_bytes()",
        "Image.open(p)",
    ],
)
def test_a_call_with_encoding_or_of_bytes_is_not(call: str) -> None:
    assert calls_without_encoding(call) == []


def test_every_call_names_its_encoding() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        for line in calls_without_encoding(path.read_text(encoding="utf-8"))
    }
    assert not found
