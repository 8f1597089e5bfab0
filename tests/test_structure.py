"""Imports run one way: checkpoints <- worldgym <- envs and agents; play imports all. Packages are listed by name."""

import ast
import configparser
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from worldgym.checkpoints import shipped

ROOT = Path(__file__).parents[1]
FOLDERS = ("checkpoints", "worldgym", "envs", "agents", "play")
ALLOWED = {
    "checkpoints": (),
    "worldgym": ("worldgym", "checkpoints"),
    "envs": ("worldgym", "checkpoints", "envs"),
    "agents": ("worldgym", "checkpoints", "agents"),
    "play": ("worldgym", "checkpoints", "envs", "agents", "play"),
}


def sources(folder: str) -> list[Path]:
    """The Python files of a top-level folder; ``worldgym/envs`` and the like are links to the others."""
    linked = [ROOT / "worldgym" / name for name in FOLDERS]
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if not any(link in path.parents for link in linked)]


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """The folder of each of our modules that a file imports, and whether a function or a type check does it."""
    tree = ast.parse(path.read_text())
    inner = {id(node) for part in ast.walk(tree) if _defers(part) for node in ast.walk(part)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports in full"
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first in FOLDERS:
                top = rest.partition(".")[0]
                yield (top if first == "worldgym" and top in FOLDERS else first), id(node) in inner


def _defers(node: ast.AST) -> bool:
    checks = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return checks or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


@pytest.mark.parametrize(
    "path", [path for folder in FOLDERS for path in sources(folder)], ids=lambda path: str(path.relative_to(ROOT))
)
def test_imports_run_one_way(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    for imported, deferred in imports(path):
        if path.parent == ROOT / "worldgym" / "cli":  # the composition root; its commands are imported when they run
            assert path.name != "__init__.py" or imported == "worldgym", f"{path} imports {imported}"
        elif path == ROOT / "worldgym" / "__init__.py":  # registers the ids
            assert deferred or imported in ("worldgym", "envs")
        else:
            assert imported in ALLOWED[folder], f"{path} imports {imported}"


def test_the_reader_of_imports_sees_them(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "from worldgym.envs import x\nimport worldgym.data\ndef f():\n    from worldgym import agents\n"
    )
    found = set(imports(tmp_path / "a.py"))
    assert found >= {("envs", False), ("worldgym", False), ("agents", True)}


def test_every_package_is_listed() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    listed = set(parser["options"]["packages"].split())
    found = set()
    for folder in FOLDERS:
        for path in sources(folder):
            if path.name == "__init__.py":
                parts = path.relative_to(ROOT).parent.parts
                found.add(".".join(parts if parts[0] == "worldgym" else ("worldgym", *parts)))
    assert listed == found


def test_every_folder_with_code_is_a_package() -> None:
    for folder in FOLDERS:
        for path in sources(folder):
            assert (path.parent / "__init__.py").exists(), f"{path.parent} has no __init__.py"


def test_a_wheel_holds_every_module_and_the_files_of_checkpoints(tmp_path: Path) -> None:
    copy, pretended = tmp_path / "copy", "worldgym/checkpoints/pretended"
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    data = ("config.json", "recipe.json", "tokenizer.safetensors", "README.md", "start_states/hammer.npz")
    for name in data:
        path = copy / "checkpoints" / "pretended" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    flags = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path))
    built = subprocess.run([sys.executable, "-m", "pip", "wheel", *flags, str(copy)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("worldgym-*.whl")
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if ".dist-info/" not in name}
        (points,) = (name for name in file.namelist() if name.endswith("entry_points.txt"))
        assert "worldgym = worldgym.cli:main" in file.read(points).decode()
    expected = {f"{pretended}/{name}" for name in data} | {"worldgym/py.typed", "worldgym/native.c"}
    expected |= {f"worldgym/play/page/{path.name}" for path in (ROOT / "play" / "page").iterdir()}
    expected |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "worldgym" / "training" / "recipes").iterdir()}
    for folder in FOLDERS:
        names = [path.relative_to(ROOT).as_posix() for path in sources(folder)]
        expected |= {name if folder == "worldgym" else f"worldgym/{name}" for name in names}
    shipping = tuple(f"worldgym/checkpoints/{name}/" for name in shipped())
    assert {name for name in held if not name.startswith(shipping)} == expected


@pytest.mark.parametrize("module", ["worldgym", "worldgym.cli", "worldgym.envs.registry"])
def test_light_modules_import_neither_torch_nor_simulators(module: str) -> None:
    heavy = ["torch", "metaworld", "mujoco", "transformers", "matplotlib", "tyro", "worldgym.agents"]
    heavy += ["worldgym.envs.learned.env"]
    code = f"import sys, {module}; print(sorted(set({heavy}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert found.stdout.strip() == "[]"
