from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from worldgym.data.arrays import checked_actions, checked_frames, checked_rewards, checked_successes
from worldgym.errors import DataError

FRAMES = np.zeros((4, 5, 6, 3), np.uint8)


def test_good_arrays_are_returned_as_they_are() -> None:
    actions, rewards = np.ones((3, 2), np.float32), np.arange(3, dtype=np.float32)
    successes = np.array([True, False, True])
    assert checked_frames(FRAMES, count=4) is FRAMES
    assert checked_actions(actions, steps=3) is actions
    assert checked_rewards(rewards, steps=3) is rewards
    assert checked_successes(successes, steps=3) is successes


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.uint8, np.bool_])
def test_numbers_become_float32(dtype: type) -> None:
    for checked, shape in ((checked_actions, (3, 2)), (checked_rewards, (3,))):
        result = checked(np.ones(shape, dtype))
        assert result.dtype == np.float32
        assert result.shape == shape
        assert (result == 1).all()


def test_lists_and_tensors_are_taken() -> None:
    np.testing.assert_array_equal(checked_rewards([1.0, 2.0]), np.array([1, 2], np.float32))
    np.testing.assert_array_equal(checked_actions(torch.ones(2, 3)), np.ones((2, 3), np.float32))


@pytest.mark.parametrize("checked", [checked_rewards, checked_successes])
def test_a_column_is_taken_as_one_value_for_each_step(checked: Callable[..., Any]) -> None:
    column = np.array([[0.0], [1.0], [1.0]])
    np.testing.assert_array_equal(checked(column, steps=3), checked(column[:, 0]))
    assert checked(column).shape == (3,)


@pytest.mark.parametrize("shape", [(), (3, 2), (1, 3), (3, 1, 1), (2,)])
@pytest.mark.parametrize("checked", [checked_rewards, checked_successes])
def test_other_shapes_are_refused(checked: Callable[..., Any], shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"door\.npz: expected \w+ \w+ \[3\], got float64 \[.*\]; \w+"):
        checked(np.zeros(shape), steps=3, where="door.npz")


@pytest.mark.parametrize(
    ("frames", "advice"),
    [
        (FRAMES.astype(np.float32), "multiply by 255"),
        (FRAMES.astype(np.int64), "scale to 0..255"),
        (FRAMES.transpose(0, 3, 1, 2), "move the channels last"),
        (FRAMES[0], "RGB"),
        (FRAMES[..., :1], "RGB"),
        (FRAMES[:, :0], "RGB"),
        (FRAMES[:3], "T actions go with T \\+ 1 frames"),
    ],
)
def test_arrays_that_are_not_frames_are_refused(frames: np.ndarray[Any, Any], advice: str) -> None:
    with pytest.raises(DataError, match=rf"expected frames uint8 \[4, H, W, 3\], got .*\]; .*{advice}"):
        checked_frames(frames, count=4)


@pytest.mark.parametrize(("shape", "advice"), [((3,), r"\[T, 1\]"), ((3, 2, 1), "one row"), ((2, 2), "T actions")])
def test_misshapen_actions_are_refused(shape: tuple[int, ...], advice: str) -> None:
    with pytest.raises(DataError, match=rf"expected actions float32 \[3, A\], got .*{advice}"):
        checked_actions(np.zeros(shape), steps=3)


@pytest.mark.parametrize("bad", [1e39, -1e300, np.inf, np.nan])
def test_values_that_float32_cannot_hold_are_refused(bad: float) -> None:
    why = "too large for float32" if np.isfinite(bad) else "not finite"
    with pytest.raises(DataError, match=f"at step 2, which is {why}"):
        checked_rewards(np.array([0.0, 1.0, bad]))
    with pytest.raises(DataError, match=f"at step 1, which is {why}"):
        checked_actions(np.array([[0.0, 1.0], [0.0, bad]]))


@pytest.mark.parametrize("value", [["a", "b"], [{}, {}], [1j, 2j], [[1.0], [1.0, 2.0]]])
def test_values_that_are_not_numbers_are_refused(value: Any) -> None:
    for checked in (checked_actions, checked_rewards, checked_successes, checked_frames):
        with pytest.raises(DataError, match="expected"):
            checked(value)


def test_successes_are_0_or_1() -> None:
    np.testing.assert_array_equal(checked_successes([0, 1, 1.0]), [False, True, True])
    for bad in ([0, 2], [0.5, 1], [np.nan, 1]):
        with pytest.raises(DataError, match="True or 1"):
            checked_successes(bad)
