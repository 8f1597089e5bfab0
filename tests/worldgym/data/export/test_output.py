from pathlib import Path

import pytest

from worldgym.data.export.output import MARKER, new_folder
from worldgym.errors import ConfigError, StorageError


def write(folder: Path, text: str = "new") -> None:
    with new_folder(folder) as temporary:
        (temporary / "meta").mkdir()
        (temporary / "meta" / "info").write_text(text)


@pytest.mark.parametrize("empty", [False, True])
def test_a_folder_appears_when_it_is_whole(empty: bool, tmp_path: Path) -> None:
    target = tmp_path / "some" / "where"
    if empty:
        target.mkdir(parents=True)
    with new_folder(target) as temporary:
        assert not empty or not any(target.iterdir())
        (temporary / "meta").mkdir()
        (temporary / "meta" / "info").write_text("new")
    assert [path.name for path in target.parent.iterdir()] == ["where"]
    assert [path.name for path in target.iterdir()] == ["meta"]
    assert (target / "meta" / "info").read_text() == "new"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "out") as temporary:
            (temporary / "half").touch()
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    left = tmp_path / ".out.partial"
    left.mkdir()
    (left / MARKER).touch()
    (left / "half").touch()
    write(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["info", "meta", "out"]


def test_nothing_of_others_is_touched(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").touch()
    with pytest.raises(ConfigError, match="a: expected a new or an empty folder, found mine; choose another"):
        write(tmp_path / "a")
    (tmp_path / "b").touch()
    with pytest.raises(ConfigError, match="b: expected a new or an empty folder, found a file"):
        write(tmp_path / "b")
    (tmp_path / ".c.partial").mkdir()
    with pytest.raises(ConfigError, match=r"\.c\.partial: expected nothing, or what an interrupted export left"):
        write(tmp_path / "c")
    with pytest.raises(StorageError, match="could not write"):
        write(tmp_path / "b" / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".c.partial", "a", "b"]
