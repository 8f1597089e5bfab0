"""Actions of any space as vectors."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldgym.envs.actions import ActionCodec
from worldgym.errors import ConfigError, InvalidAction, InvalidOption

SPACES = [
    gym.spaces.Box(-1.0, 1.0, (4,), np.float32),
    gym.spaces.Box(np.array([-1.0, 0.0, 5.0]), np.array([1.0, 1.0, 512.0]), dtype=np.float64),
    gym.spaces.Box(0, 255, (2, 3), np.uint8),
    gym.spaces.Box(2.0, 2.0, (1,), np.float32),
    gym.spaces.Discrete(3),
    gym.spaces.Discrete(4, start=-2),
    gym.spaces.MultiDiscrete([2, 5]),
    gym.spaces.MultiDiscrete([3, 3], start=np.array([1, -1])),
    gym.spaces.MultiBinary(3),
    gym.spaces.MultiBinary([2, 2]),
]
DIMENSIONS = [4, 3, 6, 1, 3, 4, 7, 6, 3, 4]


@pytest.mark.parametrize(("space", "dim"), list(zip(SPACES, DIMENSIONS, strict=True)), ids=str)
def test_every_action_is_a_vector_in_range(space: gym.Space, dim: int) -> None:  # type: ignore[type-arg]
    codec = ActionCodec(space)
    space.seed(0)
    actions = [space.sample() for _ in range(50)]
    vectors = np.stack([codec.encode(action) for action in actions])
    assert codec.dim == dim
    assert vectors.shape == (50, dim)
    assert vectors.dtype == np.float32
    assert np.abs(vectors).max() <= 1
    np.testing.assert_array_equal(codec.encode_batch(np.stack(actions), np.ones(50, np.bool_)), vectors)
    again = ActionCodec.from_description(codec.describe(), dim)
    assert again.space == space
    np.testing.assert_array_equal(np.stack([again.encode(action) for action in actions]), vectors)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3))
def test_vectors_in_the_unit_box_stay_as_they_are(values: list[float]) -> None:
    codec = ActionCodec(gym.spaces.Box(-1.0, 1.0, (3,), np.float32))
    np.testing.assert_array_equal(codec.encode(np.array(values, np.float32)), np.array(values, np.float32))


def test_a_box_is_scaled_by_its_bounds_and_clipped() -> None:
    codec = ActionCodec(gym.spaces.Box(np.array([0.0, -4.0]), np.array([512.0, 4.0]), dtype=np.float64))
    np.testing.assert_allclose(codec.encode([256.0, 2.0]), [0.0, 0.5])
    np.testing.assert_allclose(codec.encode([600.0, -9.0]), [1.0, -1.0])


def test_different_actions_have_different_vectors() -> None:
    codec = ActionCodec(gym.spaces.MultiDiscrete([2, 3]))
    vectors = {tuple(codec.encode([i, j]).tolist()) for i in range(2) for j in range(3)}
    assert len(vectors) == 6
    assert codec.encode([1, 0]).tolist() == [0, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("space", "action", "message"),
    [
        (gym.spaces.Discrete(2), 2, "outside"),
        (gym.spaces.Discrete(2), 0.5, "whole numbers"),
        (gym.spaces.Discrete(2), [0], r"shape \(\)"),
        (gym.spaces.Discrete(2), "left", "numbers"),
        (gym.spaces.MultiDiscrete([2, 3]), [0, 3], "outside"),
        (gym.spaces.MultiBinary(2), [0, 2], "outside"),
        (gym.spaces.Box(0, 2, (2,)), [np.nan, 0], "finite"),
        (gym.spaces.Box(0, 2, (2,)), [0.0], r"shape \(2,\)"),
        (gym.spaces.Box(-1, 1, (2,)), [0.0], r"shape \(2,\)"),
    ],
)
def test_actions_outside_the_space_are_refused(space: gym.Space, action: object, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InvalidAction, match=message):
        ActionCodec(space).encode(action)  # type: ignore[arg-type]


def test_idle_slots_may_hold_any_action() -> None:
    vectors = ActionCodec(gym.spaces.Discrete(2)).encode_batch([1, 7], np.array([True, False]))
    assert vectors.tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (gym.spaces.Box(-np.inf, np.inf, (2,)), "finite bounds"),
        (gym.spaces.Dict(a=gym.spaces.Discrete(2)), "expected Box"),
        (gym.spaces.Text(3), "expected Box"),
    ],
)
def test_spaces_that_are_no_vectors_are_refused(space: gym.Space, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InvalidOption, match=message):
        ActionCodec(space)


@pytest.mark.parametrize(
    ("description", "dim"),
    [({"kind": "Discrete", "n": 3, "start": 0}, 2), ({"kind": "Nothing"}, 2), ({"kind": "Box"}, 2), ({"n": 1}, 1)],
)
def test_damaged_descriptions_are_refused(description: dict[str, object], dim: int) -> None:
    with pytest.raises(ConfigError, match="action_space"):
        ActionCodec.from_description(description, dim)


def test_a_box_action_comes_back_from_its_vector() -> None:
    codec = ActionCodec(gym.spaces.Box(np.float32([[2, -3]]), np.float32([[6, -1]])))
    action = np.float32([[5, -2.5]])
    np.testing.assert_allclose(codec.decode_box(codec.encode(action)), action)
    assert codec.space.contains(codec.decode_box(np.float32([1, -1])))


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_a_box_of_whole_numbers_comes_back_exactly(dtype: type) -> None:
    codec = ActionCodec(gym.spaces.Box(0, 9, (1,), dtype))
    for number in range(10):
        action = np.array([number], dtype)
        np.testing.assert_array_equal(codec.decode_box(codec.encode(action)), action)
