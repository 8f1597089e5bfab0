"""Bounds of continuous actions, by which they are scaled to [-1, 1], as recordings store them, and back."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray


class Bounds(NamedTuple):
    """The smallest and largest values of each part of an action, float64 ``[A]``."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def of(cls, low: ArrayLike, high: ArrayLike) -> "Bounds":
        """Bounds of any shape, flattened."""
        return cls(np.asarray(low, np.float64).reshape(-1), np.asarray(high, np.float64).reshape(-1))

    def scale(self, actions: NDArray[Any]) -> NDArray[np.float64]:
        """Actions ``[..., A]`` scaled to [-1, 1], clipped; 0 for a part that is constant."""
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        scaled: NDArray[np.float64] = np.clip((actions - middle) / np.where(half > 0, half, 1), -1, 1)
        return scaled

    def unscale(self, vectors: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
        """Inverse of :meth:`scale`: actions ``[..., A]`` within the bounds, rounded where they are whole numbers."""
        actions = np.clip((self.high + self.low) / 2 + vectors * ((self.high - self.low) / 2), self.low, self.high)
        rounded: NDArray[Any] = actions if np.dtype(dtype).kind == "f" else np.rint(actions)
        return rounded.astype(dtype)
