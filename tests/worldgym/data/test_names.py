from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldgym.data.names import MAX_LENGTH, file_name

ODD = (
    "",
    ".",
    "..",
    "../x",
    "/etc/x",
    "a/b",
    "a\\b",
    "a\0b",
    ".hidden",
    "a:b",
    "put it\non the plate",
    "é",
    "%",
    "%2E",
)


@pytest.mark.parametrize("task", ["plate-slide", "button-press-topdown-wall", "PickCube-v1", "libero_10", "v1.0", "7"])
def test_plain_names_are_unchanged(task: str) -> None:
    assert file_name(task) == task


@given(st.one_of(st.sampled_from(ODD), st.text(max_size=300)))
def test_a_file_never_leaves_its_folder(task: str) -> None:
    name = file_name(task)
    assert 1 <= len(name.encode()) <= MAX_LENGTH
    assert Path(name).name == name
    assert not name.startswith(".")
    assert name.isascii()
    assert not set(name) & set('/\\:*?"<>|\0\n ')


@given(st.sets(st.one_of(st.sampled_from(ODD), st.text(max_size=300), st.text("a/", min_size=100)), max_size=30))
def test_different_tasks_have_different_files(tasks: set[str]) -> None:
    assert len({file_name(task) for task in tasks}) == len(tasks)


def test_long_names_that_differ_at_the_end_have_different_files() -> None:
    assert file_name("x" * 200 + "a") != file_name("x" * 200 + "b")


def test_text_that_is_not_valid_unicode_has_a_file_too() -> None:
    assert file_name("\ud800") == "%ED%A0%80"
