from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldgym.data.convert.tfrecord import list_records, parse_example, read_record, to_bytes, to_numbers
from worldgym.errors import DataError

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)


@given(
    numbers=st.lists(INT64, max_size=20),
    floats=st.lists(FLOAT32, max_size=20),
    texts=st.lists(st.binary(max_size=300), max_size=5),
)
def test_examples_of_the_official_protobuf_library(
    numbers: list[int], floats: list[float], texts: list[bytes], make_example: Callable[..., bytes]
) -> None:
    for packed in (True, False):
        found = parse_example(make_example({"n": numbers, "f": floats, "ä/b": texts}, packed=packed))
        assert to_numbers(found["n"]).tolist() == numbers
        np.testing.assert_array_equal(to_numbers(found["f"]), np.array(floats, np.float32))
        assert to_bytes(found["ä/b"]) == texts


def test_a_feature_of_another_kind(make_example: Callable[..., bytes]) -> None:
    found = parse_example(make_example({"n": [1], "b": [b"x"]}))
    with pytest.raises(DataError, match="expected a feature of numbers"):
        to_numbers(found["b"])
    with pytest.raises(DataError, match="expected a feature of bytes"):
        to_bytes(found["n"])
    assert to_bytes(memoryview(b"")) == []
    assert to_numbers(memoryview(b"")).shape == (0,)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_example_or_refused(data: bytes) -> None:
    try:
        for feature in parse_example(data).values():
            to_bytes(feature)
    except (DataError, UnicodeDecodeError, TypeError):
        pass


def test_records(tmp_path: Path, write_records: Callable[..., Any]) -> None:
    records = [b"", b"abc", bytes(70_000), b"last"]
    write_records(tmp_path / "r", records)
    offsets = list_records(tmp_path / "r")
    assert [read_record(tmp_path / "r", offset) for offset in offsets] == records


def test_damaged_records(tmp_path: Path, write_records: Callable[..., Any]) -> None:
    path = tmp_path / "r"
    write_records(path, [b"first", b"second", b"third"])
    whole, offsets = path.read_bytes(), list_records(path)
    for size in (len(whole) - 1, offsets[2] + 12, offsets[2] + 3):  # in the footer, before the content, in the header
        path.write_bytes(whole[:size])
        assert list_records(path) == offsets
        assert read_record(path, offsets[1]) == b"second"
        with pytest.raises(DataError, match=f"the record at byte {offsets[2]} is damaged or cut"):
            read_record(path, offsets[2])
    path.write_bytes(whole[: offsets[1]] + b"\x01" + whole[offsets[1] + 1 :])  # another length, the same checksum
    assert list_records(path) == offsets[:2]
    with pytest.raises(DataError, match="damaged or cut"):
        read_record(path, offsets[1])
    path.write_bytes(b"")
    assert list_records(path) == []
