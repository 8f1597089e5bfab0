from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from worldgym.errors import CheckpointError, DataError, StorageError
from worldgym.storage.tensors import (
    add_prefix,
    digest,
    open_tensors,
    read_tensors,
    select_prefix,
    write_tensors,
)

TENSORS = {"a": torch.arange(6.0).view(2, 3).T, "b.c": torch.tensor(3, dtype=torch.int64), "d": torch.zeros(0)}


def test_written_tensors_are_read_back(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", TENSORS, {"format": "test-1", "note": "hello"})
    found = read_tensors(tmp_path / "x.safetensors", "a test file", file_format="test-1")
    assert found.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(found.tensors[name], value) for name, value in TENSORS.items())
    assert found.metadata == {"format": "test-1", "note": "hello", "sha256": digest(TENSORS)}


def test_single_tensors_are_read_as_arrays(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", TENSORS)
    with open_tensors(tmp_path / "x.safetensors", "a test file", framework="np") as file:
        np.testing.assert_array_equal(file.get_slice("a")[1:2], [[1.0, 4.0]])


def test_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.safetensors is missing: expected a test file"):
        read_tensors(tmp_path / "x.safetensors", "a test file", error=DataError)


@pytest.mark.parametrize("content", [b"", b"text", b"\xff" * 64])
def test_damaged_file_raises(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or not a test file"):
        read_tensors(tmp_path / "x", "a test file")


def test_missing_entry_raises(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", TENSORS)
    with (
        pytest.raises(CheckpointError, match="damaged or not a test file"),
        open_tensors(tmp_path / "x", "a test file") as file,
    ):
        file.get_tensor("z")


def test_errors_of_ours_inside_pass_unchanged(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", TENSORS)
    with pytest.raises(DataError, match="mine"), open_tensors(tmp_path / "x", "a test file"):
        raise DataError("mine")


def test_another_format_raises(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", TENSORS, {"format": "other"})
    with pytest.raises(CheckpointError, match="a test file of format 'test-1', got format 'other'"):
        read_tensors(tmp_path / "x", "a test file", file_format="test-1")


def test_changed_tensors_raise(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "x", {"sha256": digest({"a": torch.zeros(2)})})
    with pytest.raises(CheckpointError, match="changed after it was saved"):
        read_tensors(tmp_path / "x", "a test file")


def test_digest_depends_on_names_dtypes_shapes_and_values() -> None:
    base = {"a": torch.zeros(2, 2)}
    others = [{"b": torch.zeros(2, 2)}, {"a": torch.zeros(4)}, {"a": torch.zeros(2, 2).half()}, {"a": torch.ones(2, 2)}]
    assert len({digest(tensors) for tensors in (base, *others)}) == 5
    assert digest({"a": torch.zeros(2, dtype=torch.bfloat16)})
    assert digest({"x": TENSORS["a"], "y": TENSORS["d"]}) == digest({"y": TENSORS["d"], "x": TENSORS["a"].contiguous()})


def test_unwritable_path_raises(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="could not write"):
        write_tensors(tmp_path / "file" / "x", TENSORS)


def test_prefixes() -> None:
    tensors = add_prefix("one", TENSORS) | add_prefix("one.more", TENSORS)
    assert select_prefix("one.more", tensors).keys() == TENSORS.keys()
    assert select_prefix("two", tensors) == {}
