"""Checks of what users pass to a world model."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldgym.config import WorldModelConfig
from worldgym.errors import ConfigError, InvalidAction, InvalidFrames, nearest

Array = Tensor | NDArray[Any]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


def to_tensor(values: Array) -> Tensor:
    """Arrays of any strides, writable or not, become new tensors; tensors are returned as they are."""
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))


def checked_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    """A floating-point dtype, given by itself or by name; None is float32.

    Raises:
        ConfigError: for any other value.
    """
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype or torch.float32
    if found is None or found not in DTYPES.values():
        raise ConfigError(f"unknown dtype {dtype!r} for weights; {nearest(str(dtype), DTYPES)}")
    return found


def check_frames(frames: Array, config: WorldModelConfig, known: int = 0) -> None:
    """Raise InvalidFrames unless ``frames`` is uint8 ``[B, C + known, H, W, 3]``."""
    side, count = config.resolution, config.context_length + known
    expected = f"expected uint8 frames [batch, {count}, height, width, 3]"
    if not isinstance(frames, (Tensor, np.ndarray)):
        raise InvalidFrames(f"{expected} as a numpy array or tensor, got {type(frames).__name__}")
    got = f"got {frames.dtype} {list(frames.shape)}"
    if str(frames.dtype) not in ("uint8", "torch.uint8"):
        raise InvalidFrames(f"{expected}, {got}: for floats in [0, 1] pass (frames * 255).round() as uint8")
    if frames.ndim != 5 or frames.shape[4] != 3 or len(frames) < 1:
        raise InvalidFrames(f"{expected}, {got}: batch and time first, colours last; frames[None] adds a batch")
    if frames.shape[1] != count:
        behind = f" and {known} behind them, one for each action" if known else ""
        raise InvalidFrames(f"{expected}, {got}: this model starts from exactly {config.context_length} frames{behind}")
    if tuple(frames.shape[2:4]) != (side, side):
        raise InvalidFrames(f"{expected} of {side} x {side} pixels, {got}: resize them to the model's resolution")


def known_frames(frames: Array, actions: Array | None, config: WorldModelConfig) -> int:
    """How many frames behind the context a start should have: one for each action, all that there are without actions.

    Raises:
        InvalidAction: for actions that are not ``[B, K, A]``.
    """
    if not config.action_dim:
        return max(0, frames.shape[1] - config.context_length) if np.ndim(frames) == 5 else 0
    if actions is None:
        return 0
    if np.ndim(actions) != 3:
        raise InvalidAction(
            f"expected actions [batch, known frames, {config.action_dim}], got {list(np.shape(actions))}"
        )
    return int(np.shape(actions)[1])


def checked_horizon(actions: Tensor | None, horizon: int | None, config: WorldModelConfig) -> int:
    """The number of frames of a rollout.

    Args:
        actions: ``[B, T, A]``, or None.
        horizon: T for an action-free model, else None.
        config: of the model.

    Raises:
        InvalidAction: if the arguments do not fit the model or each other.
    """
    if config.action_dim and (actions is None or horizon is not None):
        raise InvalidAction("expected actions [batch, horizon, action_dim] and no horizon: the actions determine it")
    if not config.action_dim and (actions is not None or horizon is None):
        raise InvalidAction("this model is action-free: expected rollout(frames, horizon=...) and no actions")
    if horizon is None:
        horizon = actions.shape[1] if actions is not None and actions.ndim > 1 else 0
    if horizon < 1:
        raise InvalidAction(f"expected a horizon of at least 1, got {horizon}")
    return horizon


def to_floats(action: Array, shape: str) -> Tensor:
    """Actions as float32.

    Args:
        action: the values.
        shape: the expected shape, for the error message.

    Raises:
        InvalidAction: for ragged sequences and values that are not numbers.
    """
    try:
        return to_tensor(action).to(torch.float32)
    except (TypeError, ValueError) as error:
        raise InvalidAction(f"expected an action of shape {shape}, got {action!r}") from error


def checked_action(action: Array | None, rows: tuple[int, ...], config: WorldModelConfig) -> Tensor | None:
    """Actions as float32 ``[*rows, A]``; None for an action-free model.

    Raises:
        InvalidAction: for another shape or, if the values are in CPU memory, ones that are not finite.
    """
    if not config.action_dim:
        if action is not None:
            raise InvalidAction(f"this model is action-free: expected None, got {type(action).__name__}")
        return None
    shape = (*rows, config.action_dim)
    if action is None:
        raise InvalidAction(f"this model takes actions: expected shape {shape}, got None")
    values = to_floats(action, str(shape))
    if tuple(values.shape) != shape:
        raise InvalidAction(f"expected an action of shape {shape}, got {tuple(values.shape)}")
    if values.device.type == "cpu" and not torch.isfinite(values).all():
        bad = (~torch.isfinite(values)).nonzero()[0].tolist()
        raise InvalidAction(f"expected finite action values, got {values[tuple(bad)].item()} at index {bad}")
    return values


def checked_noise(noise: Array, shape: tuple[int, int]) -> Tensor:
    """Noise as a tensor.

    Raises:
        ConfigError: unless it is float of this shape.
    """
    values = to_tensor(noise)
    if values.shape != shape or not values.is_floating_point():
        raise ConfigError(
            f"expected noise of shape {shape}, floats in [0, 1), got {values.dtype} {tuple(values.shape)}"
        )
    return values


def check_tokens(tokens: Tensor, contexts: int, config: WorldModelConfig) -> None:
    """Check the tokens of a rollout, int64 ``[B, T, n]``, whose T frames must fit the position window unless it slides.

    Args:
        tokens: to check.
        contexts: number of contexts given with them: B or 1.
        config: of the model.

    Raises:
        ConfigError: for another shape.
        InvalidFrames: for another number of contexts.
    """
    count, window = config.layout.tokens_per_frame, config.layout.horizon(config.transformer.max_positions)
    window = tokens.shape[1] if config.slides and tokens.ndim == 3 else window
    if tokens.ndim != 3 or tokens.shape[2] != count or not 1 <= tokens.shape[1] <= window:
        raise ConfigError(f"expected tokens [batch, horizon from 1 to {window}, {count}], got {list(tokens.shape)}")
    if contexts not in (1, len(tokens)):
        raise InvalidFrames(f"expected 1 or {len(tokens)} contexts, as many as rows of tokens, got {contexts}")
