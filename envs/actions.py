"""Actions of any Gymnasium space as vectors: what recordings store and world models take.

A ``Box`` is scaled to [-1, 1], a ``Discrete`` or ``MultiDiscrete`` action becomes one-hot vectors, a ``MultiBinary``
action stays as it is.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldgym.data.bounds import Bounds
from worldgym.envs.contract import action_space, checked_action, checked_actions
from worldgym.errors import ConfigError, InvalidAction, InvalidOption

Space = gym.spaces.Space[Any]


class ActionCodec:
    """Converts the actions of a space to vectors.

    Args:
        space: ``Box`` with finite bounds, ``Discrete``, ``MultiDiscrete`` or ``MultiBinary``.

    Attributes:
        space: the space.
        dim: length A of a vector.
        scaled: whether the space is a ``Box`` of vectors in [-1, 1], so that actions are their own vectors.

    Raises:
        InvalidOption: for any other space.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self._box: Any = space  # for functions that take a Box alone
        if isinstance(space, gym.spaces.Box):
            if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
                raise InvalidOption(f"action space {space}: expected finite bounds; wrap the environment to clip them")
            self.dim = int(np.prod(space.shape))
            self._bounds = Bounds.of(space.low, space.high)
        elif isinstance(space, gym.spaces.Discrete):
            self.dim = int(space.n)
        elif isinstance(space, gym.spaces.MultiDiscrete):
            self.dim = int(space.nvec.sum())
        elif isinstance(space, gym.spaces.MultiBinary):
            self.dim = int(np.prod(space.shape))
        else:
            raise InvalidOption(
                f"action space {space}: expected Box with finite bounds, Discrete, MultiDiscrete or MultiBinary; wrap "
                "the environment (gymnasium.wrappers.TransformAction) so that it takes one of them"
            )
        self.scaled = space == action_space(self.dim)  # once: every step asks

    def encode(self, action: ArrayLike) -> NDArray[np.float32]:
        """An action as a vector, float32 ``[A]``; a ``Box`` action is clipped to its bounds.

        Raises:
            InvalidAction: for another shape or kind of values, a value that is not finite, or one outside the space.
        """
        if self.scaled:
            return checked_action(action, self._box)
        values = _numbers(action, self.space)
        if values.shape != (self.space.shape or ()):
            raise InvalidAction(
                f"expected an action of shape {self.space.shape or ()} for {self.space}, got shape {values.shape}"
            )
        vector: NDArray[np.float32] = self._encode(values[None])[0]
        return vector

    def decode_box(self, vector: NDArray[np.float32]) -> NDArray[Any]:
        """Inverse of :meth:`encode` for a ``Box``: the action of a vector, float32 ``[A]`` in [-1, 1]."""
        return self._bounds.unscale(vector, self._box.dtype).reshape(self._box.shape)

    def encode_batch(self, actions: ArrayLike, acting: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The actions of N slots as vectors, float32 ``[N, A]``.

        Args:
            actions: ``[N, *shape]``.
            acting: bool ``[N]``; the others' vectors are zeros, whatever their actions are.

        Raises:
            InvalidAction: as :meth:`encode`.
        """
        if self.scaled:
            return checked_actions(actions, self._box, acting)
        values, shape = _numbers(actions, self.space), (len(acting), *(self.space.shape or ()))
        if values.shape != shape:
            raise InvalidAction(f"expected actions of shape {shape} for {self.space}, got shape {values.shape}")
        vectors = np.zeros((len(acting), self.dim), np.float32)
        vectors[acting] = self._encode(values[acting])
        return vectors

    def _encode(self, values: NDArray[Any]) -> NDArray[np.float32]:
        space = self.space
        if isinstance(space, gym.spaces.Box):
            return self._scale(values)
        whole = values.astype(np.int64)
        if not np.array_equal(whole, values):
            raise InvalidAction(f"expected whole numbers for {space}, got {values}")
        if isinstance(space, gym.spaces.MultiBinary):
            _check_range(whole, 0, 2, space)
            return whole.reshape(len(whole), -1).astype(np.float32)
        if isinstance(space, gym.spaces.Discrete):
            return _one_hot(whole - int(space.start), int(space.n), space)
        assert isinstance(space, gym.spaces.MultiDiscrete)
        columns = (whole - space.start).reshape(len(whole), -1).T
        sizes = space.nvec.reshape(-1).tolist()
        return np.concatenate([_one_hot(*part, space) for part in zip(columns, sizes, strict=True)], axis=1)

    def describe(self) -> dict[str, Any]:
        """The space as plain JSON; empty for vectors in [-1, 1]."""
        space = self.space
        if self.scaled:
            return {}
        if isinstance(space, gym.spaces.Box):
            bounds = {"low": space.low.reshape(-1).tolist(), "high": space.high.reshape(-1).tolist()}
            return {"kind": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
        if isinstance(space, gym.spaces.Discrete):
            return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
        if isinstance(space, gym.spaces.MultiDiscrete):
            return {"kind": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
        assert isinstance(space, gym.spaces.MultiBinary)
        return {"kind": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.n)}

    @classmethod
    def from_description(cls, description: Mapping[str, Any], dim: int) -> "ActionCodec":
        """Inverse of :meth:`describe`.

        Args:
            description: of the space.
            dim: length of a vector, which the description must have too.

        Raises:
            ConfigError: if it describes no space, or one of another length.
        """
        try:
            codec = cls(_space(description, dim))
        except (KeyError, TypeError, ValueError, AssertionError, InvalidOption) as error:
            raise ConfigError(
                f"action_space: expected the description of a space, got {description!r}: {error}"
            ) from error
        if codec.dim != dim:
            raise ConfigError(f"action_space: expected vectors of length {dim}, got {codec.dim} of {codec.space}")
        return codec

    def _scale(self, values: NDArray[Any]) -> NDArray[np.float32]:
        if not np.isfinite(values).all():
            raise InvalidAction(f"expected finite action values for {self.space}, got {values}")
        return self._bounds.scale(values.reshape(len(values), -1)).astype(np.float32)


def _space(description: Mapping[str, Any], dim: int) -> Space:
    if not description:
        return action_space(dim)
    kind = description["kind"]
    if kind == "Box":
        shape, dtype = tuple(description["shape"]), np.dtype(description["dtype"])
        low, high = (np.array(description[name], dtype).reshape(shape) for name in ("low", "high"))
        return gym.spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return gym.spaces.Discrete(description["n"], start=description["start"])
    if kind == "MultiDiscrete":
        return gym.spaces.MultiDiscrete(np.array(description["nvec"]), start=np.array(description["start"]))
    if kind == "MultiBinary":
        return gym.spaces.MultiBinary(description["n"])
    raise ValueError(f"unknown kind {kind!r}")


def _numbers(action: ArrayLike, space: Space) -> NDArray[Any]:
    try:
        values = np.asarray(action)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors with gradients
        raise InvalidAction(f"expected an action of {space}, got {action!r}: {error}") from error
    if values.dtype.kind not in "biuf":
        raise InvalidAction(f"expected an action of {space}, numbers, got {values.dtype}: {action!r}")
    return values


def _one_hot(values: NDArray[np.int64], count: int, space: Space) -> NDArray[np.float32]:
    _check_range(values, 0, count, space)
    return np.eye(count, dtype=np.float32)[values]


def _check_range(values: NDArray[np.int64], least: int, end: int, space: Space) -> None:
    if values.min(initial=least) < least or values.max(initial=least) >= end:
        raise InvalidAction(f"expected an action of {space}, got one outside of it")
