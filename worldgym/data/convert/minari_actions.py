"""Actions of Minari datasets as vectors."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldgym.data.bounds import Bounds
from worldgym.errors import DataError


def encode(actions: NDArray[Any], space: dict[str, Any]) -> tuple[NDArray[Any], dict[str, Any]]:
    """Actions as vectors, and the description of their space that episodes store.

    Args:
        actions: ``[T, *shape]``.
        space: the action space, as Minari describes it; empty if it is unknown.

    Returns:
        Vectors ``[T, A]``, and a description; an empty one for vectors that are in [-1, 1] or not scaled.

    Raises:
        DataError: for actions outside the space, or of another kind of space.
    """
    kind, flat = space.get("type", "Box"), actions.reshape(len(actions), int(np.prod(actions.shape[1:])))
    if kind == "Discrete":
        count, start = int(space["n"]), int(space.get("start", 0))
        chosen = flat.reshape(-1) - start
        if flat.size != len(actions) or chosen.min(initial=0) < 0 or chosen.max(initial=0) >= count:
            raise DataError(f"expected actions from {start} to {start + count - 1}, got others")
        return np.eye(count, dtype=np.float32)[chosen], {"kind": "Discrete", "n": count, "start": start}
    if kind != "Box":
        raise DataError(f"expected actions of a Box or Discrete space, got {kind}")
    low, high = bounds = Bounds.of(space.get("low", -1), space.get("high", 1))
    if not (np.isfinite(low).all() and np.isfinite(high).all()) or ((low == -1).all() and (high == 1).all()):
        return flat, {}
    if flat.shape[1:] != low.shape or low.shape != high.shape:
        raise DataError(f"expected actions of length {len(low)} as their space has, got length {flat.shape[1]}")
    described = {"low": low.tolist(), "high": high.tolist()}
    description = {"kind": "Box", "shape": list(actions.shape[1:]), "dtype": str(space["dtype"]), **described}
    return bounds.scale(flat), description
