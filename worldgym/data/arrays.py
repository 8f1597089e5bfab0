"""Checks of arrays where they enter: from files, replays, demonstrations and users.

Every function takes what ``numpy.asarray`` takes, and returns an array of the dtype and number of dimensions that the
rest of worldgym works with. Nothing is broadcast: an array of another shape is refused.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldgym.errors import DataError


def checked_frames(value: ArrayLike, *, count: int | None = None, where: str = "") -> NDArray[np.uint8]:
    """Check the frames of an episode or of a part of one.

    Args:
        value: frames, uint8 ``[N, H, W, 3]``.
        count: the number N that is expected; None accepts any.
        where: what holds the frames, such as a path, for error messages.

    Returns:
        The frames, uint8 ``[N, H, W, 3]``; the same array where it is one.

    Raises:
        DataError: for another dtype, shape or number of frames.
    """
    frames = _array(value, "frames", where)
    expected = f"frames uint8 [{_size('N', count)}, H, W, 3]"
    if frames.dtype != np.uint8:
        scale = "multiply by 255 if they are in [0, 1], round" if frames.dtype.kind == "f" else "scale to 0..255"
        raise _error(where, expected, frames, f"{scale} and convert them to uint8")
    if frames.ndim != 4 or frames.shape[3] != 3 or min(frames.shape[1:]) < 1:
        first = frames.ndim == 4 and frames.shape[1] == 3
        raise _error(where, expected, frames, "move the channels last" if first else "convert them to RGB images")
    _check_length(frames, expected, count, where)
    return frames


def checked_actions(value: ArrayLike, *, steps: int | None = None, where: str = "") -> NDArray[np.float32]:
    """Check the actions of an episode or of a part of one.

    Args:
        value: actions, numbers ``[T, A]``.
        steps: the number T that is expected; None accepts any.
        where: what holds the actions, such as a path, for error messages.

    Returns:
        The actions, float32 ``[T, A]``.

    Raises:
        DataError: for another shape or number of steps, and for values that are not finite in float32.
    """
    actions = _array(value, "actions", where)
    expected = f"actions float32 [{_size('T', steps)}, A]"
    if actions.ndim != 2:
        advice = "reshape them to [T, 1]" if actions.ndim == 1 else "flatten each action to one row"
        raise _error(where, expected, actions, advice)
    _check_length(actions, expected, steps, where)
    return _to_float32(actions, "actions", expected, where)


def checked_rewards(value: ArrayLike, *, steps: int | None = None, where: str = "") -> NDArray[np.float32]:
    """Check the rewards of an episode or of a part of one.

    Args:
        value: rewards, numbers ``[T]``, or a column ``[T, 1]``.
        steps: the number T that is expected; None accepts any.
        where: what holds the rewards, such as a path, for error messages.

    Returns:
        The rewards, float32 ``[T]``.

    Raises:
        DataError: for another shape or number of steps, and for values that are not finite in float32.
    """
    expected = f"rewards float32 [{_size('T', steps)}]"
    rewards = _one_per_step(value, "rewards", expected, steps, where)
    return _to_float32(rewards, "rewards", expected, where)


def checked_successes(value: ArrayLike, *, steps: int | None = None, where: str = "") -> NDArray[np.bool_]:
    """Check the successes of an episode or of a part of one.

    Args:
        value: booleans, or numbers that are 0 or 1, ``[T]`` or a column ``[T, 1]``.
        steps: the number T that is expected; None accepts any.
        where: what holds the successes, such as a path, for error messages.

    Returns:
        The successes, bool ``[T]``.

    Raises:
        DataError: for another shape or number of steps, and for numbers other than 0 and 1.
    """
    expected = f"successes bool [{_size('T', steps)}]"
    successes = _one_per_step(value, "successes", expected, steps, where)
    if not np.isin(successes, (0, 1)).all():
        raise _error(where, expected, successes, "give True or 1 where the task counts as solved, else False or 0")
    return successes.astype(np.bool_, copy=False)


def _array(value: ArrayLike, name: str, where: str) -> NDArray[Any]:
    """An array of booleans or real numbers."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{_prefix(where)}expected {name} as one array, got {type(value).__name__}: {error}") from error
    if array.dtype.kind not in "buif":
        raise _error(where, f"{name} as an array of numbers", array, f"convert the {name} to numbers")
    return array


def _one_per_step(value: ArrayLike, name: str, expected: str, steps: int | None, where: str) -> NDArray[Any]:
    array = _array(value, name, where)
    if array.ndim == 2 and array.shape[1] == 1:  # a column, as tables and replay files have it
        array = array[:, 0]
    if array.ndim != 1:
        raise _error(where, expected, array, f"give one of the {name} for each step")
    _check_length(array, expected, steps, where)
    return array


def _check_length(array: NDArray[Any], expected: str, length: int | None, where: str) -> None:
    if length is not None and len(array) != length:
        raise _error(where, expected, array, "T actions go with T + 1 frames, T rewards and T successes")


def _to_float32(array: NDArray[Any], name: str, expected: str, where: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        converted = array.astype(np.float32, copy=False)
    if not np.isfinite(converted).all():
        index = int(np.flatnonzero(~np.isfinite(converted))[0])
        bad = array.reshape(-1)[index]
        kind = "too large for float32" if np.isfinite(bad) else "not finite"
        raise DataError(
            f"{_prefix(where)}expected {expected}, got {bad} at step {np.unravel_index(index, array.shape)[0]}, which "
            f"is {kind}; correct the {name} or leave the episode out"
        )
    return converted


def _error(where: str, expected: str, got: NDArray[Any], advice: str) -> DataError:
    return DataError(f"{_prefix(where)}expected {expected}, got {got.dtype} {list(got.shape)}; {advice}")


def _size(letter: str, count: int | None) -> str:
    return letter if count is None else str(count)


def _prefix(where: str) -> str:
    return f"{where}: " if where else ""
