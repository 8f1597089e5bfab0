"""WorldModel: the one place where tokenizer, transformer and frames meet.

Shapes: B batch rows, C context frames, T future frames, H x W pixels, A action dimension, n tokens a future frame.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldgym.config import Sampling, WorldModelConfig
from worldgym.devices import checked_device
from worldgym.errors import ConfigError, InvalidAction, InvalidFrames, nearest
from worldgym.symlog import symexp
from worldgym.tokenizer.base import ContextFeatures, Tokenizer
from worldgym.tokens import TokenLayout
from worldgym.transformer.cache import KeyValueCache
from worldgym.transformer.imagine import imagine_frame, read_context
from worldgym.transformer.llama import Transformer

Array = Tensor | NDArray[Any]
Rows = Sequence[int] | Tensor | NDArray[np.integer[Any]]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


class Imagined(NamedTuple):
    """A rollout. Tensors are on the model's device."""

    frames: Tensor
    """uint8 ``[B, T, H, W, 3]``; empty, ``[B, 0, H, W, 3]``, where ``rollout`` was told not to decode."""
    rewards: Tensor
    """float32 ``[B, T]``; NaN where the model predicts none."""
    tokens: Tensor
    """int64 ``[B, T, n]``: dynamics codes, as the tokenizer's ``decode_future`` takes them."""
    uncertainty: Tensor
    """float32 ``[B, T]``: mean entropy of each frame's tokens in nats."""


@dataclass(eq=False)
class WorldModelState:
    """Where B imagined histories stand. ``WorldModel.step`` moves it on in place; ``fork`` copies it before.

    Attributes:
        frames: uint8 ``[B, C, H, W, 3]``, what the model would start from now: the last C frames, oldest first; of a
            goal-conditioned model the goal and the last C - 1.
        uncertainty: float32 ``[B]``, mean entropy in nats of the newest frame's tokens; 0 before the first step.
        reanchored: bool ``[B]``, whether the last step had to start anew from ``frames`` because the position window
            was full.
        features: what the tokenizer keeps of the context.
        cache: what the transformer keeps of context and imagined frames.
    """

    frames: Tensor
    uncertainty: Tensor
    reanchored: Tensor
    features: ContextFeatures
    cache: KeyValueCache

    def __len__(self) -> int:
        return len(self.frames)

    @torch.inference_mode()
    def select(self, rows: Rows) -> "WorldModelState":
        """A copy of some rows, repeated where an index repeats."""
        chosen, index = self._rows(rows)
        return WorldModelState(
            self.frames[index],
            self.uncertainty[index],
            self.reanchored[index],
            self.features.select(index),
            self.cache.select(chosen),
        )

    @torch.inference_mode()
    def put(self, rows: Rows, other: "WorldModelState") -> None:
        """Overwrite rows with the rows of ``other``, in place."""
        chosen, index = self._rows(rows)
        # What a caller has read from here before must not change: only features and cache are written in place.
        self.frames = self.frames.index_copy(0, index, other.frames)
        self.uncertainty = self.uncertainty.index_copy(0, index, other.uncertainty)
        self.reanchored = self.reanchored.index_copy(0, index, other.reanchored)
        self.features.put(index, other.features)
        self.cache.put(chosen, other.cache)

    def fork(self, count: int) -> "WorldModelState":
        """Each row ``count`` times, copies of one row side by side, independent from here on: ``[B * count]``.

        Raises ConfigError for a count below 1.
        """
        if count < 1:
            raise ConfigError(f"fork takes how many copies each row becomes, at least 1, got {count}")
        return self.select([row for row in range(len(self)) for _ in range(count)])

    def _rows(self, rows: Rows) -> tuple[list[int], Tensor]:
        chosen = [int(row) for row in rows]
        return chosen, torch.tensor(chosen, dtype=torch.int64, device=self.frames.device)


class WorldModel:
    """A learned simulator of B environments at once. Always in evaluation mode, never with gradients."""

    def __init__(self, config: WorldModelConfig, tokenizer: Tokenizer, transformer: Transformer) -> None:
        """Wrap trained parts, which stay shared with whoever trains them.

        Raises ConfigError where the parts do not fit ``config``.
        """
        self.config, self.tokenizer, self.transformer = config, tokenizer, transformer
        described = config.layout, config.transformer, config.action_dim, config.reward
        built = (
            transformer.layout,
            transformer.config,
            transformer.action_dim,
            transformer.reward_linear is not None,
        )
        if described != built or tokenizer.layout != config.layout:
            raise ConfigError(
                f"the parts do not fit the configuration: expected (layout, transformer, action_dim, reward) = "
                f"{described}, got {built} and a tokenizer of {tokenizer.layout}"
            )
        self._evaluate()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        revision: str | None = None,
        goal_conditioned: bool | None = None,
    ) -> "WorldModel":
        """Load a checkpoint: a name that ships, a folder (ours or the published layout), or a Hugging Face Hub id.

        device: where to put it, such as "cpu" or "cuda:1"; the CPU unless given.
        dtype: of the weights in memory, such as torch.bfloat16 or "bfloat16"; float32 unless given, whatever they are
            stored as.
        revision: branch, tag or commit of a Hub repository.
        goal_conditioned: whether the first context frame is a goal. Our own folders say it themselves; a published one
            is taken as such where the name of the folder or Hub id contains "goal-cond", unless told here.

        Raises CheckpointError, which lists everything that is missing, unknown, misshapen, changed since it was saved
        or not finite; ConfigError for a device or dtype that there is not.
        """
        from worldgym.pretrained import load

        place, kind = checked_device("cpu" if device is None else device), checked_dtype(dtype)
        parts = load(name_or_path, dtype=kind, revision=revision, goal_conditioned=goal_conditioned)
        return cls(*parts).to(place)

    def save_pretrained(self, folder: str | os.PathLike[str], dtype: torch.dtype | str | None = None) -> None:
        """Write ``config.json``, ``tokenizer.safetensors`` and ``transformer.safetensors``, all or nothing.

        dtype: of the weights on disk, such as torch.float16 or "float16"; as they are unless given.

        Raises StorageError where the disk refuses; what stood in ``folder`` before is then still there.
        """
        from worldgym.pretrained import save

        stored = None if dtype is None else checked_dtype(dtype)
        save(folder, self.config, self.tokenizer, self.transformer, stored)

    @property
    def layout(self) -> TokenLayout:
        return self.config.layout

    @property
    def device(self) -> torch.device:
        return self.transformer.llm.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.llm.lm_head.weight.dtype

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "WorldModel":
        """Move both parts and convert their weights, in place; states made before stay where they were."""
        for module in (self.tokenizer, self.transformer):
            module.to(device=device)
            for weight in module.parameters():  # statistics stay float32: they may not fit a smaller range
                weight.data = weight.data.to(dtype=dtype)
        return self

    def start(self, frames: Array) -> WorldModelState:
        """Read real frames, uint8 ``[B, C, H, W, 3]``, oldest first (goal-conditioned: the goal, then the others).

        Raises InvalidFrames for anything but that.
        """
        return self._start(self._checked_frames(frames), self.config.transformer.max_positions)

    def step(
        self,
        state: WorldModelState,
        action: Array | None = None,
        temperature: float = 1.0,
        top_k: int = 100,
        generator: torch.Generator | None = None,
        noise: Array | None = None,
    ) -> tuple[WorldModelState, Tensor, Tensor]:
        """Imagine one frame in every row.

        action: float ``[B, A]``; None for action-free models. Taken as it is: environments clip, the model does not.
        temperature, top_k: how tokens are drawn; ``top_k=1`` is greedy.
        generator: draws the noise; torch's default one unless given.
        noise: float ``[B, n]`` in [0, 1), in place of the generator, so that every row can own its randomness.

        Returns the state given, moved on in place; the frame, uint8 ``[B, H, W, 3]``; the reward, float32 ``[B]``
        (NaN where the model predicts none).

        Raises InvalidAction for a wrong shape or, where that can be seen without waiting for a GPU, a value that is
        not finite; ConfigError for a temperature or top_k that no distribution has.
        """
        sampling = Sampling(temperature, top_k)
        checked = self._checked_action(action, (len(state),))
        imagined = self._advance(state, checked, self._noise(len(state), generator, noise), sampling)
        return state, state.frames[:, -1].clone(), imagined.reward.clone()

    def rollout(
        self,
        frames: Array,
        actions: Array | None = None,
        temperature: float = 1.0,
        top_k: int = 100,
        generator: torch.Generator | None = None,
        decode: bool = True,
        horizon: int | None = None,
    ) -> Imagined:
        """Imagine T frames in every row: ``start`` and T times ``step``.

        frames: uint8 ``[B, C, H, W, 3]``. actions: float ``[B, T, A]``; action-free models take ``horizon=T`` instead.
        decode: False leaves the frames out where only rewards matter (they are still made where T frames do not fit
        the position window, to go on from).

        Raises InvalidFrames, InvalidAction and ConfigError as ``start`` and ``step`` do.
        """
        sampling = Sampling(temperature, top_k)
        context = self._checked_frames(frames)
        actions = None if actions is None else _floats(actions, "[batch, horizon, action_dim]")
        horizon = self._checked_horizon(actions, horizon)
        checked = self._checked_action(actions, (len(context), horizon))
        positions = self.layout.length(horizon)
        fits = positions <= self.config.transformer.max_positions
        state = self._start(context, min(positions, self.config.transformer.max_positions))
        images, rewards, codes, uncertainty = [], [], [], []
        for step in range(horizon):
            action = None if checked is None else checked[:, step]
            noise = self._noise(len(state), generator, None)
            imagined = self._advance(state, action, noise, sampling, decode or not fits)
            if decode:
                images.append(state.frames[:, -1])
            rewards.append(imagined.reward)
            codes.append(imagined.codes)
            uncertainty.append(state.uncertainty)
        stacked = [torch.stack(parts, dim=1) for parts in (rewards, codes, uncertainty)]
        return Imagined(torch.stack(images, dim=1) if decode else context[:, :0].clone(), *stacked)

    @torch.inference_mode()
    def _start(self, frames: Tensor, positions: int) -> WorldModelState:
        self._evaluate()
        pixels = frames.to(self.dtype).div(255).movedim(-1, -3)
        codes, features = self.tokenizer.encode_context(pixels)
        return WorldModelState(
            frames=frames.clone(),
            uncertainty=torch.zeros(len(frames), device=self.device),
            reanchored=torch.zeros(len(frames), dtype=torch.bool, device=self.device),
            features=features,
            cache=read_context(self.transformer, codes, positions),
        )

    @torch.inference_mode()
    def _advance(
        self, state: WorldModelState, action: Tensor | None, noise: Tensor, sampling: Sampling, decode: bool = True
    ) -> "_Step":
        """One frame for checked inputs; the state moves on in place."""
        self._reanchor(state)
        imagined = imagine_frame(self.transformer, state.cache, action, noise, sampling.temperature, sampling.top_k)
        state.uncertainty = imagined.uncertainty
        pixels = None
        if decode:
            pixels = self.tokenizer.decode_future(imagined.codes[:, None], state.features)[:, 0].clamp(0, 1)
            frame = pixels.float().mul(255).round().to(torch.uint8).movedim(1, -1)
            kept = int(self.config.goal_conditioned)
            state.frames = torch.cat([state.frames[:, :kept], state.frames[:, kept + 1 :], frame[:, None]], dim=1)
        return _Step(imagined.codes, pixels, self._reward(imagined.reward, len(state)), imagined.reward)

    def _reanchor(self, state: WorldModelState) -> None:
        """Start rows anew, from their own last frames, whose window has no room for one frame more."""
        room = state.cache.room()
        full = [row for row, left in enumerate(room) if left < self.layout.step_length]
        state.reanchored = torch.zeros_like(state.reanchored)
        if full:
            rows = torch.tensor(full, device=self.device)
            fresh = self._start(state.frames[rows], state.cache.capacity)
            fresh.reanchored.fill_(True)
            state.put(full, fresh)

    def _reward(self, raw: Tensor | None, batch: int) -> Tensor:
        """Inverse of the transform the reward head was trained under, float32 ``[B]``."""
        if raw is None:
            return torch.full((batch,), float("nan"), device=self.device)
        raw = raw.float()
        return raw if self.config.reward_transform == "identity" else symexp(raw)

    def _noise(self, batch: int, generator: torch.Generator | None, given: Array | None) -> Tensor:
        shape = (batch, self.layout.tokens_per_frame)
        if given is None:
            device = "cpu" if generator is None else generator.device
            return torch.rand(shape, generator=generator, device=device).to(self.device)
        noise = _tensor(given)
        if noise.shape != shape or not noise.is_floating_point():
            raise ConfigError(
                f"expected noise of shape {shape}, floats in [0, 1), got {noise.dtype} {tuple(noise.shape)}"
            )
        return noise.to(self.device, torch.float32)

    def _evaluate(self) -> None:
        """Back to evaluation mode, should a trainer have left the parts in training mode."""
        for module in (self.tokenizer, self.transformer):
            if module.training:
                module.eval()

    def _checked_frames(self, frames: Array) -> Tensor:
        side, expected = self.config.resolution, f"uint8 frames [batch, {self.config.context_length}, height, width, 3]"
        if not isinstance(frames, (Tensor, np.ndarray)):
            raise InvalidFrames(f"expected {expected} as a numpy array or tensor, got {type(frames).__name__}")
        got = f"got {frames.dtype} {list(frames.shape)}"
        if str(frames.dtype) not in ("uint8", "torch.uint8"):
            raise InvalidFrames(
                f"expected {expected}, {got}: for floats in [0, 1] pass (frames * 255).round() as uint8"
            )
        if frames.ndim != 5 or frames.shape[4] != 3 or len(frames) < 1:
            raise InvalidFrames(
                f"expected {expected}, {got}: batch and time first, colours last; frames[None] adds a batch"
            )
        if frames.shape[1] != self.config.context_length:
            raise InvalidFrames(
                f"expected {expected}, {got}: this model starts from exactly {self.config.context_length} frames"
            )
        if tuple(frames.shape[2:4]) != (side, side):
            raise InvalidFrames(
                f"expected {expected} of {side} x {side} pixels, {got}: resize them to the model's resolution"
            )
        return _tensor(frames).to(self.device)

    def _checked_horizon(self, actions: Tensor | None, horizon: int | None) -> int:
        given = None if actions is None else tuple(actions.shape)[1:2]
        if self.config.action_dim and (given is None or horizon is not None):
            raise InvalidAction(
                "this model takes actions [batch, horizon, action_dim], and their horizon is the rollout's"
            )
        if not self.config.action_dim and (actions is not None or horizon is None):
            raise InvalidAction("this model is action-free: give rollout(frames, horizon=...) and no actions")
        length = horizon if horizon is not None else (given[0] if given else 0)
        if length < 1:
            raise InvalidAction(f"expected a horizon of at least 1, got {length}")
        return length

    def _checked_action(self, action: Array | None, rows: tuple[int, ...]) -> Tensor | None:
        """Float32 ``[*rows, A]`` on the device, or None for an action-free model."""
        if not self.config.action_dim:
            if action is not None:
                raise InvalidAction(f"this model is action-free: expected None, got {type(action).__name__}")
            return None
        shape = (*rows, self.config.action_dim)
        if action is None:
            raise InvalidAction(f"this model takes actions: expected shape {shape}, got None")
        values = _floats(action, str(shape))
        if tuple(values.shape) != shape:
            raise InvalidAction(f"expected an action of shape {shape}, got {tuple(values.shape)}")
        if values.device.type == "cpu" and not torch.isfinite(values).all():
            bad = (~torch.isfinite(values)).nonzero()[0].tolist()
            raise InvalidAction(f"expected finite action values, got {values[tuple(bad)].item()} at index {bad}")
        return values.to(self.device, self.dtype)


class _Step(NamedTuple):
    """One imagined frame: codes ``[B, n]``, pixels float ``[B, 3, H, W]`` in [0, 1], reward, the head's raw output."""

    codes: Tensor
    pixels: Tensor | None
    reward: Tensor
    raw_reward: Tensor | None


def _tensor(values: Array) -> Tensor:
    """Arrays of any strides, writable or not, become tensors of their own."""
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))


def _floats(action: Array, shape: str) -> Tensor:
    """An action or several as float32. Raises InvalidAction for what is ragged or no numbers."""
    try:
        return _tensor(action).to(torch.float32)
    except (TypeError, ValueError) as error:
        raise InvalidAction(f"expected an action of shape {shape}, got {action!r}") from error


def checked_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    """A floating-point type by itself or by name; None is float32. Raises ConfigError for any other."""
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype or torch.float32
    if found is None or found not in DTYPES.values():
        raise ConfigError(f"unknown dtype {dtype!r} for weights; {nearest(str(dtype), DTYPES)}")
    return found
