import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from worldgym.errors import ConfigError, StorageError, WorldGymError
from worldgym.storage.files import atomic_folder, atomic_json, atomic_write, free_space, read_json


def test_atomic_write_makes_folders_and_shows_no_incomplete_file(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a" / "b" / "file.txt") as temporary:
        temporary.write_text("new")
        assert not (tmp_path / "a" / "b" / "file.txt").exists()
    assert (tmp_path / "a" / "b" / "file.txt").read_text() == "new"


def fail_halfway(path: Path, error: type[BaseException] = OSError) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error


def fail_halfway_in_folder(path: Path) -> None:
    with atomic_folder(path) as temporary:
        (temporary / "a").write_text("half")
        raise OSError


@pytest.mark.parametrize(
    ("error", "seen"),
    [(OSError, StorageError), (SafetensorError, StorageError), (KeyboardInterrupt, KeyboardInterrupt)],
)
def test_error_inside_leaves_no_file(tmp_path: Path, error: type[BaseException], seen: type[BaseException]) -> None:
    with pytest.raises(seen):
        fail_halfway(tmp_path / "file.txt", error)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_paths_raise_storage_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    inside = tmp_path / "file" / "folder"
    expected = r"could not write .*folder.*No incomplete file is left.*GB are free"
    with pytest.raises(WorldGymError, match=expected):
        fail_halfway(inside / "a")
    with pytest.raises(WorldGymError, match=expected):
        atomic_json(inside / "a", 1)
    with pytest.raises(WorldGymError, match=expected), atomic_folder(inside):
        pass


def test_error_inside_keeps_the_earlier_file(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("old")
    with pytest.raises(StorageError):
        fail_halfway(tmp_path / "file.txt")
    assert (tmp_path / "file.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_removed_temporary_file_raises(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"), atomic_write(tmp_path / "file.txt") as temporary:
        temporary.unlink()
    assert list(tmp_path.iterdir()) == []


def test_files_have_default_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("")
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "file").write_text("")
        (folder / "file").chmod(0o600)
    expected = (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "file").stat().st_mode == expected
    assert (tmp_path / "folder" / "file").stat().st_mode == expected


def test_json_is_indented(tmp_path: Path) -> None:
    atomic_json(tmp_path / "value.json", {"a": [1]})
    assert (tmp_path / "value.json").read_text() == '{\n  "a": [\n    1\n  ]\n}\n'


def test_value_that_is_not_json_keeps_the_earlier_file(tmp_path: Path) -> None:
    atomic_json(tmp_path / "value.json", 1)
    with pytest.raises(TypeError):
        atomic_json(tmp_path / "value.json", object())
    assert (tmp_path / "value.json").read_text() == "1\n"


def test_new_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        fail_halfway_in_folder(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(tmp_path / "new") as temporary:
        (temporary / "a").write_text("whole")
    assert (tmp_path / "new" / "a").read_text() == "whole"


def test_files_replace_those_of_an_existing_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("old")
    with pytest.raises(StorageError):
        fail_halfway_in_folder(tmp_path)
    assert (tmp_path / "a").read_text() == "old"
    with atomic_folder(tmp_path) as temporary:
        (temporary / "a").write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new", "b": "old"}


def write_three_files(folder: Path) -> None:
    with atomic_folder(folder) as temporary:
        for name in ("a", "b", "c"):
            (temporary / name).write_text("new")


@pytest.mark.parametrize("failing", range(1, 6))
def test_existing_folder_is_unchanged_if_any_file_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Three files replace two earlier ones, in five renames, each of which fails once."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a", "c", "other"):
        (folder / name).write_text("earlier")
    replace, renames = Path.replace, 0

    def fail_once(self: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames == failing:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail_once)
        with pytest.raises(StorageError, match="earlier files are kept"):
            write_three_files(folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == dict.fromkeys(("a", "c", "other"), "earlier")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_json_has_null_for_values_that_are_not_finite(tmp_path: Path) -> None:
    value = {"a": [math.nan, 1.5], "b": {"c": (math.inf, -math.inf)}}
    atomic_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == {"a": [None, 1.5], "b": {"c": [None, None]}}


def test_text_is_utf8_whatever_the_locale(tmp_path: Path) -> None:
    (tmp_path / "value.json").write_bytes('{"name": "R²"}'.encode())
    code = (
        "import sys; from worldgym.storage.files import atomic_json, read_json; "
        "atomic_json(sys.argv[2], read_json(sys.argv[1]))"
    )
    arguments = [sys.executable, "-X", "utf8=0", "-c", code, str(tmp_path / "value.json"), str(tmp_path / "copy.json")]
    subprocess.run(arguments, check=True, env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"})
    assert read_json(tmp_path / "copy.json") == {"name": "R²"}


def test_free_space_of_a_missing_folder(tmp_path: Path) -> None:
    assert f"GB are free on the disk of {tmp_path}" in free_space(tmp_path / "a" / os.fspath("b"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"\xff", "is not readable as text"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "must hold a JSON object, got list"),
        (None, "is missing"),
    ],
)
def test_invalid_json_files_raise_with_their_name(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "value.json").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"value\.json {message}"):
        read_json(tmp_path / "value.json")
