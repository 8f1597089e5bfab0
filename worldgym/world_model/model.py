"""WorldModel: the one place where tokenizer, transformer and frames meet.

Shapes: B batch rows, C context frames, T future frames, H x W pixels, A action dimension, n tokens a future frame.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldgym.config import Sampling, WorldModelConfig, to_dict
from worldgym.devices import checked_device, free_memory
from worldgym.errors import ConfigError, InvalidAction, InvalidFrames, OutOfMemory, nearest
from worldgym.symlog import symexp
from worldgym.tokenizer.base import ContextFeatures, Tokenizer
from worldgym.tokens import TokenLayout
from worldgym.transformer.cache import KeyValueCache
from worldgym.transformer.decoding.frame import imagine_frame, read_context
from worldgym.transformer.llama import Transformer

Array = Tensor | NDArray[Any]
Rows = Sequence[int] | Tensor | NDArray[np.integer[Any]]
TOKENIZER_ROWS = 64  # frames that are encoded or decoded at once: more are no faster and take more memory
CERTAINLY_FREE = 2**28  # bytes
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
        model: whose state it is.
    """

    frames: Tensor
    uncertainty: Tensor
    reanchored: Tensor
    features: ContextFeatures
    cache: KeyValueCache
    model: "WorldModel"

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def nbytes(self) -> int:
        """What cache and features take; what a fork shares counts in each of those who share it."""
        return self.cache.nbytes + self.features.nbytes + self.frames.nbytes

    @torch.inference_mode()
    def select(self, rows: Rows) -> "WorldModelState":
        """A copy of some rows, repeated where an index repeats."""
        chosen, index = self._rows(rows)
        return self._picked(index, self.features.select(index), self.cache.select(chosen))

    @torch.inference_mode()
    def put(self, rows: Rows, other: "WorldModelState") -> None:
        """Overwrite rows with the rows of ``other``, in place."""
        chosen, index = self._rows(rows)
        # What a caller has read from here before must not change: only the cache is written in place.
        self.frames = self.frames.index_copy(0, index, other.frames)
        self.uncertainty = self.uncertainty.index_copy(0, index, other.uncertainty)
        self.reanchored = self.reanchored.index_copy(0, index, other.reanchored)
        self.features = self.features.put(index, other.features)
        self.cache.put(chosen, other.cache)

    @torch.inference_mode()
    def fork(self, count: int) -> "WorldModelState":
        """Each row ``count`` times, branches of one row side by side, independent from here on: ``[B * count]``.

        They share the features, keys and values of their common past, so that a branch costs what it adds.

        Raises ConfigError for a count below 1; OutOfMemory, before anything is allocated, for one that does not fit.
        """
        if count < 1:
            raise ConfigError(f"fork takes how many copies each row becomes, at least 1, got {count}")
        self.model._check_memory(count * len(self), max(self.cache.room(), default=0), branch=True)
        _, index = self._rows([row for row in range(len(self)) for _ in range(count)])
        return self._picked(index, self.features.fork(index), self.cache.fork(count))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file that :meth:`WorldModel.restore` reads; StorageError where the disk refuses."""
        from worldgym.world_model.state_file import save_state

        save_state(Path(path), self)

    def _picked(self, index: Tensor, features: ContextFeatures, cache: KeyValueCache) -> "WorldModelState":
        """The small parts of some rows beside their features and cache."""
        return WorldModelState(
            self.frames[index], self.uncertainty[index], self.reanchored[index], features, cache, self.model
        )

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
        self.trained = True  # fresh_world_model() makes untrained ones
        tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as convolutions take weights
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

        Raises InvalidFrames for anything but that; OutOfMemory, before anything is allocated, for a batch that does
        not fit.
        """
        window = self.config.transformer.max_positions
        self._check_frames(frames)
        self._check_memory(len(frames), window)  # before arrays are copied
        return self._start(self._placed(frames), window)

    def restore(self, path: str | os.PathLike[str]) -> WorldModelState:
        """Inverse of :meth:`WorldModelState.save`: imagination goes on from there as if it had not been left.

        Raises CheckpointError for a file that is none, is damaged, or was saved by a model of other weights.
        """
        from worldgym.world_model.state_file import load_state

        return load_state(Path(path), self)

    def fingerprint(self) -> str:
        """A digest of architecture and weights: equal for models that imagine the same."""
        from worldgym.pretrained import digest

        values = to_dict(self.config)
        about = {name: values[name] for name in ("tokenizer", "transformer", "reward_transform", "goal_conditioned")}
        weights = [digest(module.state_dict()) for module in (self.tokenizer, self.transformer)]
        return hashlib.sha256(json.dumps([about, weights]).encode()).hexdigest()

    def memory(self, batch: int, horizon: int | None = None) -> int:
        """About how many bytes the state of ``batch`` rows takes that imagine ``horizon`` frames (None: the window)."""
        return self._needed(batch, *self._costs(self._positions(horizon)))

    def largest_batch(self, budget: int, horizon: int | None = None) -> int:
        """How many rows fit ``budget`` bytes; 0 where not even one does."""
        return self._fitting(budget, *self._costs(self._positions(horizon)))

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
        not finite; ConfigError for a temperature or top_k that no distribution has, or a state of another model.
        """
        sampling = Sampling(temperature, top_k)
        if state.model is not self:
            raise ConfigError("this state was started by another model; start, or restore, one with this model")
        if not len(state):
            raise ConfigError("this state has no rows: select at least one")
        if (state.cache.device, state.cache.dtype) != (self.device, self.dtype):
            raise ConfigError(
                f"this state is {state.cache.dtype} on {state.cache.device} and the model was moved to {self.dtype} on "
                f"{self.device} since; start one anew"
            )
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
        budget: int | None = None,
    ) -> Imagined:
        """Imagine T frames in every row: ``start`` and T times ``step``.

        frames: uint8 ``[B, C, H, W, 3]``; one context, ``[1, C, H, W, 3]``, serves all rows of ``actions``: it is
            encoded once and its keys and values are shared.
        actions: float ``[B, T, A]``; action-free models take ``horizon=T`` instead.
        decode: False leaves the frames out where only rewards matter (they are still made where T frames do not fit
            the position window, to go on from); :meth:`decode` makes them afterwards, from the tokens.
        budget: bytes that may be in use at once; more rows than fit them run in chunks, to the same result. None
            takes them all together.

        Raises InvalidFrames, InvalidAction and ConfigError as ``start`` and ``step`` do; OutOfMemory where the batch,
        or a single row of it, does not fit.
        """
        sampling = Sampling(temperature, top_k)
        self._check_frames(frames)
        actions = None if actions is None else _floats(actions, "[batch, horizon, action_dim]")
        horizon = self._checked_horizon(actions, horizon)
        rows = max(len(actions), 1) if actions is not None and len(frames) == 1 else len(frames)
        checked = self._checked_action(actions, (rows, horizon))
        chunks = self._chunks(rows, horizon, budget, branch=len(frames) < rows)
        context = self._placed(frames)
        noise = torch.stack([self._noise(rows, generator, None) for _ in range(horizon)], dim=1)
        parts = [
            self._rollout(
                context if len(context) == 1 else context[chunk],
                None if checked is None else checked[chunk],
                noise[chunk],
                sampling,
                decode,
            )
            for chunk in chunks
        ]
        return parts[0] if len(parts) == 1 else Imagined(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    @torch.inference_mode()
    def decode(self, frames: Array, tokens: Tensor) -> Tensor:
        """Frames of a rollout made with ``decode=False``: uint8 ``[B, T, H, W, 3]``.

        frames: the context it started from, uint8 ``[B, C, H, W, 3]`` or ``[1, C, H, W, 3]``.
        tokens: its tokens, int64 ``[B, T, n]``; T frames have to fit the position window, beyond which a rollout goes
            on from frames of its own.

        Raises InvalidFrames for other frames; ConfigError for other tokens.
        """
        self._check_frames(frames)
        context, count = self._placed(frames), self.layout.tokens_per_frame
        window = self.layout.horizon(self.config.transformer.max_positions)
        if tokens.ndim != 3 or tokens.shape[2] != count or not 1 <= tokens.shape[1] <= window:
            raise ConfigError(f"expected tokens [batch, horizon from 1 to {window}, {count}], got {list(tokens.shape)}")
        if len(context) not in (1, len(tokens)):
            raise InvalidFrames(f"expected 1 or {len(tokens)} contexts, as many as rows of tokens, got {len(context)}")
        _, features = self._encode(context)
        if len(context) == 1:
            features = features.fork(torch.zeros(len(tokens), dtype=torch.int64, device=self.device))
        return torch.stack([_to_uint8(self._decode(codes, features)) for codes in tokens.unbind(1)], dim=1)

    def _rollout(
        self, context: Tensor, actions: Tensor | None, noise: Tensor, sampling: Sampling, decode: bool
    ) -> Imagined:
        """For checked inputs: contexts of ``[B]`` or ``[1]``, actions ``[B, T, A]``, noise ``[B, T, n]``."""
        batch, horizon = noise.shape[:2]
        positions = self._positions(horizon)
        fits = self.layout.length(horizon) <= positions
        state = self._start(context, positions)
        if batch > len(context):
            state = state.fork(batch)
        images, rewards, codes, uncertainty = [], [], [], []
        for step in range(horizon):
            action = None if actions is None else actions[:, step]
            imagined = self._advance(state, action, noise[:, step], sampling, decode or not fits)
            if decode:
                images.append(state.frames[:, -1])
            rewards.append(imagined.reward)
            codes.append(imagined.codes)
            uncertainty.append(state.uncertainty)
        stacked = [torch.stack(parts, dim=1) for parts in (rewards, codes, uncertainty)]
        empty = context.new_empty(batch, 0, *context.shape[2:])
        return Imagined(torch.stack(images, dim=1) if decode else empty, *stacked)

    def _chunks(self, rows: int, horizon: int, budget: int | None, branch: bool) -> Iterator[slice]:
        size = rows if budget is None else min(rows, self.largest_batch(budget, horizon))
        if size < 1:
            raise OutOfMemory(
                f"not even one row of {horizon} frames fits budget={budget} bytes; it takes {self.memory(1, horizon)}"
            )
        self._check_memory(size, self._positions(horizon) - branch * self.layout.prefix_length, branch)
        return (slice(start, start + size) for start in range(0, rows, size))

    def _positions(self, horizon: int | None) -> int:
        """Positions that a cache needs for so many frames, at most the window."""
        window = self.config.transformer.max_positions
        return window if horizon is None else min(self.layout.length(horizon), window)

    def _costs(self, positions: int, branch: bool = False) -> tuple[int, int]:
        """Bytes that a row takes, and a frame while it is encoded or decoded; of a branch those beside its trunk's."""
        config, size = self.config.transformer, self.dtype.itemsize
        row = 2 * config.layers * config.key_value_heads * positions * config.head_dim * size
        row += 2 * (self.config.context_length + 1) * 3 * self.config.resolution**2
        if not branch:
            row += int(self._feature_bytes * size)
            row += self.layout.prefix_length * 4 * (config.hidden_size + config.mlp_size) * size  # while it is read
        return row, self.tokenizer.peak_floats * size

    def _needed(self, batch: int, row: int, image: int) -> int:
        return batch * row + min(batch * self.config.context_length, TOKENIZER_ROWS) * image

    def _fitting(self, budget: int, row: int, image: int) -> int:
        """The largest batch that needs no more than ``budget``."""
        few, many = budget // (row + self.config.context_length * image), (budget - TOKENIZER_ROWS * image) // row
        return max(few, many, 0)

    @functools.cached_property
    def _feature_bytes(self) -> float:
        """Numbers that the features of one context take, found by encoding one."""
        self._evaluate()
        side = self.config.resolution
        blank = torch.zeros(1, self.config.context_length, side, side, 3, dtype=torch.uint8, device=self.device)
        return self._encode(blank)[1].nbytes / self.dtype.itemsize

    @torch.inference_mode()
    def _start(self, frames: Tensor, positions: int) -> WorldModelState:
        self._evaluate()
        self._check_memory(len(frames), positions)
        codes, features = self._encode(frames)
        return WorldModelState(
            frames=frames.clone(),
            uncertainty=torch.zeros(len(frames), device=self.device),
            reanchored=torch.zeros(len(frames), dtype=torch.bool, device=self.device),
            features=features,
            cache=read_context(self.transformer, codes, positions),
            model=self,
        )

    def _check_memory(self, batch: int, positions: int, branch: bool = False) -> None:
        """Small batches are let through unasked: to ask costs more than they do."""
        costs = self._costs(positions, branch)
        needed = self._needed(batch, *costs)
        if needed < CERTAINLY_FREE or (free := free_memory(self.device)) is None or needed <= free:
            return
        raise OutOfMemory(
            f"a batch of {batch} needs about {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free on "
            f"{self.device}: at most {self._fitting(free, *costs)} rows fit; rollout(..., budget=bytes) runs more of "
            "them in chunks"
        )

    @torch.inference_mode()
    def _encode(self, frames: Tensor) -> tuple[Tensor, ContextFeatures]:
        """Codes and features of contexts, uint8 ``[B, C, H, W, 3]``, some at a time."""
        chunks = frames.split(max(1, TOKENIZER_ROWS // self.config.context_length))
        parts = [self.tokenizer.encode_context(chunk.to(self.dtype).div(255).movedim(-1, -3)) for chunk in chunks]
        if len(parts) == 1:
            return parts[0]
        stored = zip(*(features.stored for _, features in parts), strict=True)
        return torch.cat([codes for codes, _ in parts]), ContextFeatures(tuple(torch.cat(some) for some in stored))

    @torch.inference_mode()
    def _decode(self, codes: Tensor, features: ContextFeatures) -> Tensor:
        """Pixels ``[B, 3, H, W]`` in [0, 1] of one frame's codes ``[B, n]``, some at a time."""
        if len(codes) <= TOKENIZER_ROWS and features.rows is None:
            return self.tokenizer.decode_future(codes[:, None], features)[:, 0].clamp(0, 1)
        chunks = torch.arange(len(codes), device=codes.device).split(TOKENIZER_ROWS)
        return torch.cat([self._decode(codes[rows], features.select(rows)) for rows in chunks])

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
            pixels = self._decode(imagined.codes, state.features)
            kept = int(self.config.goal_conditioned)
            newest = _to_uint8(pixels)[:, None]
            state.frames = torch.cat([state.frames[:, :kept], state.frames[:, kept + 1 :], newest], dim=1)
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

    def _placed(self, frames: Array) -> Tensor:
        """Checked frames, on the device."""
        return _tensor(frames).to(self.device)

    def _check_frames(self, frames: Array) -> None:
        """Raise InvalidFrames unless they are uint8 ``[B, C, H, W, 3]``."""
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


def _to_uint8(pixels: Tensor) -> Tensor:
    """Pixels ``[B, 3, H, W]`` in [0, 1] to frames, uint8 ``[B, H, W, 3]``."""
    return pixels.float().mul(255).round().to(torch.uint8).movedim(1, -1)


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
