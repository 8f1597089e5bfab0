"""Bounds of actions: scaled and back."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from worldgym.data.bounds import Bounds

numbers = st.floats(-100, 100, allow_nan=False, width=32)


@given(arrays(np.float64, (2, 3), elements=numbers), arrays(np.float64, (5, 3), elements=st.floats(0, 1)))
def test_actions_within_the_bounds_come_back(bounds: np.ndarray, share: np.ndarray) -> None:
    low, high = np.sort(bounds, axis=0)
    actions = low + share * (high - low)
    vectors = Bounds(low, high).scale(actions)
    assert np.abs(vectors).max() <= 1
    np.testing.assert_allclose(Bounds(low, high).unscale(vectors, np.float64), actions, atol=1e-9)


def test_others_are_clipped_and_constant_parts_are_zero() -> None:
    bounds = Bounds.of([[0, 3]], [[2, 3]])
    np.testing.assert_array_equal(bounds.scale(np.array([[5.0, 3.0], [-1.0, 3.0]])), [[1, 0], [-1, 0]])
    np.testing.assert_array_equal(bounds.unscale(np.array([1.2, 0.5]), np.int64), [2, 3])
