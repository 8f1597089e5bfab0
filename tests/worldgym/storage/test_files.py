import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from worldgym.errors import ConfigError, StorageError, WorldGymError
from worldgym.storage.files import atomic_folder, atomic_json, atomic_write, free_space, read_json


def test_a_file_appears_whole_with_its_folders(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a" / "b" / "file.txt") as aside:
        aside.write_text("new")
        assert not (tmp_path / "a" / "b" / "file.txt").exists()
    assert (tmp_path / "a" / "b" / "file.txt").read_text() == "new"


def fail_halfway(path: Path, error: type[BaseException] = OSError) -> None:
    with atomic_write(path) as aside:
        aside.write_text("half")
        raise error


def fail_halfway_in_folder(path: Path) -> None:
    with atomic_folder(path) as aside:
        (aside / "a").write_text("half")
        raise OSError


@pytest.mark.parametrize(
    ("error", "seen"),
    [(OSError, StorageError), (SafetensorError, StorageError), (KeyboardInterrupt, KeyboardInterrupt)],
)
def test_an_error_inside_leaves_nothing_new(
    tmp_path: Path, error: type[BaseException], seen: type[BaseException]
) -> None:
    with pytest.raises(seen):
        fail_halfway(tmp_path / "file.txt", error)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_is_one_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    inside = tmp_path / "file" / "folder"
    for write in (lambda: fail_halfway(inside / "a"), lambda: atomic_json(inside / "a", 1), lambda: fail(inside)):
        with pytest.raises(WorldGymError, match=r"could not write .*folder.*Nothing half-written is left.*GB are free"):
            write()


def fail(folder: Path) -> None:
    with atomic_folder(folder):
        pass


def test_an_error_inside_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("old")
    with pytest.raises(StorageError):
        fail_halfway(tmp_path / "file.txt")
    assert (tmp_path / "file.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_a_writer_that_removes_its_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"), atomic_write(tmp_path / "file.txt") as aside:
        aside.unlink()
    assert list(tmp_path.iterdir()) == []


def test_files_are_as_readable_as_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with atomic_write(tmp_path / "file") as aside:
        aside.write_text("")
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "file").write_text("")
        (folder / "file").chmod(0o600)
    expected = (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "file").stat().st_mode == expected
    assert (tmp_path / "folder" / "file").stat().st_mode == expected


def test_json_is_written_for_people(tmp_path: Path) -> None:
    atomic_json(tmp_path / "value.json", {"a": [1]})
    assert (tmp_path / "value.json").read_text() == '{\n  "a": [\n    1\n  ]\n}\n'


def test_a_value_that_is_no_json_keeps_the_old_file(tmp_path: Path) -> None:
    atomic_json(tmp_path / "value.json", 1)
    with pytest.raises(TypeError):
        atomic_json(tmp_path / "value.json", object())
    assert (tmp_path / "value.json").read_text() == "1\n"


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        fail_halfway_in_folder(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(tmp_path / "new") as aside:
        (aside / "a").write_text("whole")
    assert (tmp_path / "new" / "a").read_text() == "whole"


def test_files_replace_their_namesakes_in_an_old_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("old")
    with pytest.raises(StorageError):
        fail_halfway_in_folder(tmp_path)
    assert (tmp_path / "a").read_text() == "old"
    with atomic_folder(tmp_path) as aside:
        (aside / "a").write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new", "b": "old"}


def test_free_space_is_told_for_folders_yet_to_be_made(tmp_path: Path) -> None:
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
def test_json_that_is_none_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "value.json").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"value\.json {message}"):
        read_json(tmp_path / "value.json")
