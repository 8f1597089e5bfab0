"""What all environments share: the action checks and the window of human rendering."""

from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from worldgym.envs import contract
from worldgym.envs.contract import action_space, checked_action, checked_actions, close_window, frame_space, show_frame
from worldgym.errors import InvalidAction

SPACE = action_space(2)


def test_spaces() -> None:
    assert frame_space(32).shape == (32, 32, 3)
    assert frame_space(32).dtype == np.uint8
    assert SPACE.dtype == np.float32
    assert (SPACE.low.min(), SPACE.high.max(), SPACE.shape) == (-1, 1, (2,))


@pytest.mark.parametrize("action", [[2, -0.5], (2.0, -0.5), np.array([2, -0.5]), torch.tensor([2, -0.5])])
def test_actions_of_any_kind_become_float32_and_are_clipped(action: Any) -> None:
    checked = checked_action(action, SPACE)
    assert checked.dtype == np.float32
    np.testing.assert_array_equal(checked, [1, -0.5])


@pytest.mark.parametrize("action", [None, "left", [1, 2, 3], 1, [[0, 0]], [0, np.nan], [0, -np.inf], [0, 1e300], {}])
def test_bad_actions(action: Any) -> None:
    with pytest.raises(InvalidAction, match="expected"):
        checked_action(action, SPACE)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (torch.zeros(2, requires_grad=True), "detach"),
        ([torch.zeros((), requires_grad=True)] * 2, "expected an action"),
        (np.zeros(2, np.complex64), "real numbers, got complex64"),
        ([1j, 0], "real numbers, got complex128"),
        ([[1], [1, 2]], "inhomogeneous"),
        (["0", "1"], "real numbers, got <U1"),
        ([b"0", b"1"], "real numbers"),
        (np.array([0, 1], "datetime64[s]"), "real numbers"),
        ([10**400, 0], "real numbers, got object"),
    ],
)
def test_actions_that_are_not_real_numbers(action: Any, message: str) -> None:
    with pytest.raises(InvalidAction, match=message):
        checked_action(action, SPACE)
    with pytest.raises(InvalidAction, match=message):
        checked_actions(action, SPACE, np.array([True]))


def test_actions_of_idle_slots_are_ignored() -> None:
    actions = np.array([[np.nan, np.inf], [3, 0.5]])
    checked = checked_actions(actions, SPACE, np.array([False, True]))
    assert checked.dtype == np.float32
    np.testing.assert_array_equal(checked, [[0, 0], [1, 0.5]])
    with pytest.raises(InvalidAction, match=r"finite.*slot 0"):
        checked_actions(actions, SPACE, np.array([True, True]))
    with pytest.raises(InvalidAction, match=r"shape \(2, 2\).*got shape \(1, 2\)"):
        checked_actions(actions[:1], SPACE, np.array([False, False]))


def test_a_window_shows_the_frame_and_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    monkeypatch.setattr(plt, "pause", lambda seconds: None)
    before = mpl.get_backend()
    mpl.use("template")  # windows in name only
    show_frame(frame, "a test")
    show_frame(frame, "a test")
    assert plt.get_figlabels() == ["a test"]
    np.testing.assert_array_equal(plt.figure("a test").axes[0].images[0].get_array(), frame)
    close_window("a test")
    assert plt.get_figlabels() == []
    mpl.use(before)


def test_without_a_display_it_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpl, "get_backend", lambda: "agg")
    contract._warn_of_no_window.cache_clear()
    with pytest.warns(UserWarning, match="pyqt6.*'rgb_array'"):
        show_frame(np.zeros((4, 4, 3), np.uint8), "a test")
    show_frame(np.zeros((4, 4, 3), np.uint8), "a test")  # no second warning, which would be an error here
    assert plt.get_figlabels() == []
    close_window("a test")
