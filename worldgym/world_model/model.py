"""WorldModel: the place where tokenizer, transformer and frames meet.

Shapes: B batch rows, C context frames, T future frames, H x W pixels, A action dimension, n tokens of a future frame.
"""

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from worldgym.config import Sampling, WorldModelConfig, to_dict
from worldgym.devices import checked_device
from worldgym.errors import ConfigError
from worldgym.isolation import torch_defaults, use_one_thread_in_forked_children
from worldgym.tokenizer.base import Tokenizer
from worldgym.tokens import TokenLayout
from worldgym.transformer.decoding.frame import imagine_frame, read_context, replace_future
from worldgym.transformer.transformer import Transformer
from worldgym.world_model.checks import (
    Array,
    check_frames,
    check_tokens,
    checked_action,
    checked_dtype,
    checked_horizon,
    checked_noise,
    known_frames,
    to_floats,
    to_tensor,
)
from worldgym.world_model.images import decode_frame, encode_contexts, encode_known, remember_shown, to_uint8
from worldgym.world_model.memory import MemoryEstimate
from worldgym.world_model.state import WorldModelState

FINGERPRINTED = ("tokenizer", "transformer", "reward_transform", "reward_bins", "goal_conditioned", "slides")
"""Entries of the configuration that change what a model imagines."""


class Imagined(NamedTuple):
    """A rollout. Tensors are on the model's device."""

    frames: Tensor
    """uint8 ``[B, T, H, W, 3]``; empty, ``[B, 0, H, W, 3]``, for ``rollout(decode=False)``."""
    rewards: Tensor
    """float32 ``[B, T]``; NaN if the model predicts no rewards."""
    tokens: Tensor
    """int64 ``[B, T, n]``, dynamics codes, for :meth:`WorldModel.decode`."""
    uncertainty: Tensor
    """float32 ``[B, T]``, as :attr:`WorldModelState.uncertainty`."""
    success_probability: Tensor
    """float32 ``[B, T]``; NaN if the model does not predict it."""
    termination_probability: Tensor
    """float32 ``[B, T]``; NaN if the model does not predict it."""
    reward_spread: Tensor
    """float32 ``[B, T]``, standard deviation of each predicted reward; NaN if the model predicts no distribution."""


class _Step(NamedTuple):
    """One imagined frame."""

    codes: Tensor
    """int64 ``[B, n]``."""
    reward: Tensor
    """float32 ``[B]``."""


class WorldModel:
    """A learned simulator of B environments at once. Always in evaluation mode, never with gradients.

    Results do not depend on the caller's PyTorch settings (default dtype and device, autocast, grad mode).

    Args:
        config: description of the model.
        tokenizer: a trained tokenizer. It is used, not copied: further training changes the world model.
        transformer: a trained transformer, likewise.

    Attributes:
        trained: whether the transformer has ever been trained.

    Raises:
        ConfigError: if the parts do not fit ``config``.
    """

    def __init__(self, config: WorldModelConfig, tokenizer: Tokenizer, transformer: Transformer) -> None:
        use_one_thread_in_forked_children()
        self.config, self.tokenizer, self.transformer = config, tokenizer, transformer
        self.trained = True
        self._reward_scale = config.reward_scale
        tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the fast one for convolutions
        expected = config.layout, config.transformer, config.action_dim, config.heads
        got = transformer.layout, transformer.config, transformer.action_dim, tuple(transformer.heads)
        if expected != got or tokenizer.layout != config.layout:
            raise ConfigError(
                f"the parts do not fit the configuration: expected (layout, transformer, action_dim, heads) = "
                f"{expected}, got {got} and a tokenizer of {tokenizer.layout}"
            )
        self._evaluate()

    @classmethod
    @torch_defaults()
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        revision: str | None = None,
        goal_conditioned: bool | None = None,
    ) -> "WorldModel":
        """Load a checkpoint.

        Args:
            name_or_path: a name that ships, a folder (ours or the published layout), or a Hugging Face Hub id.
            device: such as "cpu" or "cuda:1"; the CPU by default.
            dtype: of the weights in memory, such as torch.bfloat16 or "bfloat16"; float32 by default.
            revision: branch, tag or commit of a Hub repository.
            goal_conditioned: whether the first context frame is a goal. Only for published folders; by default, whether
                the name of the folder or Hub id contains "goal-cond".

        Raises:
            CheckpointError: lists everything that is missing, unknown, misshapen, changed since it was saved or not
                finite.
            ConfigError: for a device or dtype that does not exist.
        """
        from worldgym.pretrained import load

        target, kind = checked_device("cpu" if device is None else device), checked_dtype(dtype)
        parts = load(name_or_path, dtype=kind, revision=revision, goal_conditioned=goal_conditioned)
        return cls(*parts).to(target)

    @torch_defaults()
    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        dtype: torch.dtype | str | None = None,
        layout: Literal["worldgym", "published"] = "worldgym",
    ) -> None:
        """Write ``config.json``, ``tokenizer.safetensors`` and ``transformer.safetensors``.

        Args:
            folder: a new or an existing folder; other files in it are kept.
            dtype: of the weights on disk, such as torch.float16 or "float16"; unchanged by default.
            layout: ``"published"`` writes the folders ``tokenizer`` and ``transformer`` instead, which the reference
                implementation reads. They have no place for tasks, action names, frame skip, sampling and figures, nor
                for ``goal_conditioned``: name the folder ``...-goal-cond...``, or pass it when loading.

        Raises:
            ConfigError: for another layout, or a model that the published one cannot hold; lists every reason.
            StorageError: if the folder cannot be written; an earlier checkpoint in it is kept as it was.
        """
        from worldgym.pretrained import save, save_published

        if layout not in ("worldgym", "published"):
            raise ConfigError(f"layout: expected 'worldgym' or 'published', got {layout!r}")
        stored = None if dtype is None else checked_dtype(dtype)
        write = save_published if layout == "published" else save
        write(folder, self.config, self.tokenizer, self.transformer, stored)

    @property
    def layout(self) -> TokenLayout:
        """Counts and ids of the token sequence."""
        return self.config.layout

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.transformer.llm.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.transformer.llm.lm_head.weight.dtype

    @torch_defaults()
    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "WorldModel":
        """Move both parts and convert their weights, in place. States are not moved; start new ones."""
        for module in (self.tokenizer, self.transformer):
            module.to(device=device)
            for weight in module.parameters():  # statistics stay float32: they may not fit a smaller range
                weight.data = weight.data.to(dtype=dtype)
        return self

    @torch_defaults(grad=False)
    def start(self, frames: Array, actions: Array | None = None) -> WorldModelState:
        """Start from real frames, and, if there are more than the context, from what happened since.

        Frames behind the context are encoded as future frames, under the actions that led to them: an imagined episode
        can branch off a real one and keep the sharp codes of its first frames. Where later frames are decoded as the
        newest of these is, they also keep the details of it that its codes do not hold. Of more frames than the
        position window holds the newest are kept, as when it slides.

        Args:
            frames: uint8 ``[B, C + K, H, W, 3]``, oldest first; for a goal-conditioned model the goal, then the others.
            actions: that led to the last K frames, float ``[B, K, A]``; None if K is 0 or the model is action-free.

        Raises:
            InvalidFrames: for other frames.
            InvalidAction: for other actions.
            ConfigError: for more frames than the position window holds, if it does not slide.
            OutOfMemory: before anything is allocated, for a batch that does not fit.
        """
        known = known_frames(frames, actions, self.config)
        checked = self._checked_action(actions, (len(frames), known)) if known else None
        check_frames(frames, self.config, known)
        window = self.config.transformer.max_positions
        self.memory_estimate.check(len(frames), window)  # before arrays are copied
        images = self._to_device(frames)
        state = self._start(images[:, : self.config.context_length], window)
        if known:
            self._read_known(state, images[:, self.config.context_length :], checked)
        return state

    def restore(self, path: str | os.PathLike[str]) -> WorldModelState:
        """Inverse of :meth:`WorldModelState.save`: the state continues exactly as it would have.

        Raises:
            CheckpointError: if the file is missing or damaged, or was saved by a model of other weights.
        """
        from worldgym.world_model.state_file import load_state

        return load_state(Path(path), self)

    def fingerprint(self) -> str:
        """A digest of architecture and weights."""
        from worldgym.storage.tensors import digest

        values = to_dict(self.config)
        about = {name: values[name] for name in FINGERPRINTED}
        weights = [digest(module.state_dict()) for module in (self.tokenizer, self.transformer)]
        return hashlib.sha256(json.dumps([about, weights]).encode()).hexdigest()

    def memory(self, batch: int, horizon: int | None = None) -> int:
        """About how many bytes ``batch`` rows need to imagine ``horizon`` frames (None: the position window)."""
        estimate = self.memory_estimate
        return estimate.needed(batch, estimate.costs(estimate.positions(horizon)))

    def largest_batch(self, budget: int, horizon: int | None = None) -> int:
        """How many rows fit ``budget`` bytes; 0 if not even one does."""
        estimate = self.memory_estimate
        return estimate.largest_batch(budget, estimate.costs(estimate.positions(horizon)))

    @property
    def memory_estimate(self) -> MemoryEstimate:
        """Estimates for the current device and dtype."""
        return MemoryEstimate(self.config, self.dtype, self.device, self.tokenizer.peak_floats, self._feature_values)

    @torch_defaults(grad=False)
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

        Args:
            state: changed in place.
            action: float ``[B, A]``; None for action-free models. It is not clipped: environments do that.
            temperature: of sampling tokens. Environments use the checkpoint's own, ``config.sampling``.
            top_k: of sampling tokens; 1 is greedy.
            generator: for the noise; PyTorch's default one if None.
            noise: float ``[B, n]`` in [0, 1), in place of the generator, so that every row has its own randomness.

        Returns:
            The given state; the frame, uint8 ``[B, H, W, 3]``; the reward, float32 ``[B]`` (NaN if the model predicts
            none).

        Raises:
            InvalidAction: for a wrong shape or, if the action is in CPU memory, a value that is not finite.
            ConfigError: for an invalid temperature or top_k, or a state of another model.
        """
        sampling = Sampling(temperature, top_k)
        self._check_state(state)
        self._evaluate()
        checked = self._checked_action(action, (len(state),))
        imagined = self._advance(state, checked, self._noise(len(state), generator, noise), sampling)
        return state, state.frames[:, -1].clone(), imagined.reward.clone()

    @torch_defaults(grad=False)
    def imagine(
        self,
        state: WorldModelState,
        actions: Array,
        temperature: float = 1.0,
        top_k: int = 100,
        generator: torch.Generator | None = None,
        noise: Array | None = None,
        decode: bool = True,
    ) -> Imagined:
        """Imagine T frames in every row of a state: T times :meth:`step`. Fork the state before to keep it.

        Args:
            state: changed in place.
            actions: float ``[B, T, A]``.
            temperature: of sampling tokens. Environments use the checkpoint's own, ``config.sampling``.
            top_k: of sampling tokens; 1 is greedy.
            generator: for the noise; PyTorch's default one if None.
            noise: float ``[B, T, n]`` in [0, 1), in place of the generator.
            decode: if False, no frames are returned and those of the state stay old; unless the window slides, such a
                state must not be continued beyond its window, from where it would start anew from them.

        Raises:
            InvalidAction: as in ``step``, and for an action-free model.
            ConfigError: as in ``step``.
        """
        sampling = Sampling(temperature, top_k)
        self._check_state(state)
        self._evaluate()
        values = to_floats(actions, "[batch, horizon, action_dim]")
        horizon = checked_horizon(values, None, self.config)
        checked = self._checked_action(values, (len(state), horizon))
        steps = [None] * horizon if noise is None else to_tensor(noise).unbind(1)
        if len(steps) != horizon:
            raise ConfigError(f"expected noise for {horizon} steps, as many as actions, got {len(steps)}")
        drawn = torch.stack([self._noise(len(state), generator, each) for each in steps], dim=1)
        # A state with little room left, in a window that does not slide, continues from frames of its own.
        room = min(state.cache.remaining()) // self.layout.step_length
        return self._imagine(
            state, checked, drawn, sampling, decode, decode or not (self.config.slides or horizon <= room)
        )

    @torch_defaults(grad=False)
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
        """Imagine T frames in every row: ``start``, then T times ``step``.

        Args:
            frames: uint8 ``[B, C, H, W, 3]``. One context, ``[1, C, H, W, 3]``, is used for all rows of ``actions``: it
                is encoded once and its keys and values are shared.
            actions: float ``[B, T, A]``; None for action-free models.
            temperature: of sampling tokens. Environments use the checkpoint's own, ``config.sampling``.
            top_k: of sampling tokens; 1 is greedy.
            generator: for the noise; PyTorch's default one if None.
            decode: if False, no frames are returned; :meth:`decode` makes them later. (If T frames do not fit the
                position window, frames are still made to continue from, unless the window slides.)
            horizon: T, for action-free models only.
            budget: bytes that may be in use at once. If the rows need more, they run in chunks, with the same result.
                None does not limit them.

        Raises:
            InvalidFrames: as in ``start``.
            InvalidAction: as in ``step``.
            ConfigError: as in ``step``.
            OutOfMemory: if the batch, or a single row of it, does not fit.
        """
        sampling = Sampling(temperature, top_k)
        check_frames(frames, self.config)
        actions = None if actions is None else to_floats(actions, "[batch, horizon, action_dim]")
        horizon = checked_horizon(actions, horizon, self.config)
        rows = max(len(actions), 1) if actions is not None and len(frames) == 1 else len(frames)
        checked = self._checked_action(actions, (rows, horizon))
        size = self.memory_estimate.chunk_size(rows, horizon, budget, branch=len(frames) < rows)
        context = self._to_device(frames)
        noise = torch.stack([self._noise(rows, generator, None) for _ in range(horizon)], dim=1)
        parts = []
        for start in range(0, rows, size):
            chunk = slice(start, start + size)
            chunk_context = context if len(context) == 1 else context[chunk]
            chunk_actions = None if checked is None else checked[chunk]
            parts.append(self._rollout(chunk_context, chunk_actions, noise[chunk], sampling, decode))
        return parts[0] if len(parts) == 1 else Imagined(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    @torch_defaults(grad=False)
    def decode(self, frames: Array, tokens: Tensor) -> Tensor:
        """Frames of a rollout that was made with ``decode=False``.

        Args:
            frames: the context of the rollout, uint8 ``[B, C, H, W, 3]`` or ``[1, C, H, W, 3]``.
            tokens: its tokens, int64 ``[B, T, n]``. Unless the window slides, T frames must fit it, as longer rollouts
                continue from frames of their own.

        Returns:
            uint8 ``[B, T, H, W, 3]``.

        Raises:
            InvalidFrames: for other frames.
            ConfigError: for other tokens.
        """
        check_frames(frames, self.config)
        check_tokens(tokens, len(frames), self.config)
        self._evaluate()
        context = self._to_device(frames)
        _, features = encode_contexts(self.tokenizer, context, self.dtype)
        if len(context) == 1:
            features = features.fork(torch.zeros(len(tokens), dtype=torch.int64, device=self.device))
        return torch.stack(
            [to_uint8(decode_frame(self.tokenizer, codes, features)) for codes in tokens.unbind(1)], dim=1
        )

    def _rollout(
        self, context: Tensor, actions: Tensor | None, noise: Tensor, sampling: Sampling, decode: bool
    ) -> Imagined:
        """For checked inputs: contexts of ``[B]`` or ``[1]``, actions ``[B, T, A]``, noise ``[B, T, n]``."""
        batch, horizon = noise.shape[:2]
        positions = self.memory_estimate.positions(horizon)
        decoded = decode or not (self.config.slides or self.layout.length(horizon) <= positions)
        state = self._start(context, positions)
        if batch > len(context):
            state = state.fork(batch)
        return self._imagine(state, actions, noise, sampling, decode, decoded)

    def _imagine(
        self,
        state: WorldModelState,
        actions: Tensor | None,
        noise: Tensor,
        sampling: Sampling,
        decode: bool,
        decoded: bool,
    ) -> Imagined:
        """Advance a state by T steps for checked inputs; frames are made if ``decoded``, and returned if ``decode``."""
        images, steps = [], []
        for step in range(noise.shape[1]):
            action = None if actions is None else actions[:, step]
            imagined = self._advance(state, action, noise[:, step], sampling, decoded)
            if decode:
                images.append(state.frames[:, -1])
            beside = state.uncertainty, state.success_probability, state.termination_probability, state.reward_spread
            steps.append((*imagined, *beside))
        codes, rewards, *rest = (torch.stack(parts, dim=1) for parts in zip(*steps, strict=True))
        empty = state.frames.new_empty(len(state), 0, *state.frames.shape[2:])
        return Imagined(torch.stack(images, dim=1) if decode else empty, rewards, codes, *rest)

    @functools.cached_property
    @torch_defaults(grad=False)
    def _feature_values(self) -> float:
        """Number of values of the features of one context, found by encoding one."""
        self._evaluate()
        side = self.config.resolution
        blank = torch.zeros(1, self.config.context_length, side, side, 3, dtype=torch.uint8, device=self.device)
        shown = 2 * blank[0, 0].numel()  # what is remembered of a real frame behind the context
        return encode_contexts(self.tokenizer, blank, self.dtype)[1].nbytes / self.dtype.itemsize + shown

    def _start(self, frames: Tensor, positions: int) -> WorldModelState:
        """For checked frames; ``positions`` is the capacity of the cache."""
        self._evaluate()
        self.memory_estimate.check(len(frames), positions)
        codes, features = encode_contexts(self.tokenizer, frames, self.dtype)
        zeros, unknown = torch.zeros(len(frames), device=self.device, dtype=torch.float32), self._unknown(len(frames))
        return WorldModelState(
            frames=frames.clone(),
            uncertainty=zeros,
            reanchored=zeros.bool(),
            success_probability=zeros if self.config.success else unknown,
            termination_probability=zeros if self.config.termination else unknown,
            reward_spread=zeros if self.config.reward_bins else unknown,
            recent_codes=codes.new_zeros(len(codes), self.config.kept_frames, self.layout.tokens_per_frame),
            recent_actions=zeros.new_zeros(len(codes), self.config.kept_frames, self.config.action_dim).to(self.dtype),
            features=features,
            cache=read_context(self.transformer, codes, positions),
            model=self,
        )

    def _read_known(self, state: WorldModelState, frames: Tensor, actions: Tensor | None) -> None:
        """Continue a fresh state with real frames ``[B, K, H, W, 3]`` and the actions that led to them, in place."""
        room, known = self.layout.horizon(state.cache.capacity), frames.shape[1]
        if known > room:
            if not self.config.slides:
                raise ConfigError(
                    f"start: {known} frames behind the context, but the position window holds {room} and does not "
                    "slide: give fewer frames"
                )
            known = self.config.kept_frames
            frames, actions = frames[:, -known:], None if actions is None else actions[:, -known:]
        codes = encode_known(self.tokenizer, frames, state.features, self.dtype)
        replace_future(self.transformer, state.cache, codes, actions)
        state.features = remember_shown(self.tokenizer, frames[:, -1], codes[:, -1], state.features, self.dtype)
        goal, newest = int(self.config.goal_conditioned), self.config.context_length
        seen = torch.cat([state.frames, frames], dim=1)
        state.frames = torch.cat([seen[:, :goal], seen[:, goal - newest :]], dim=1)
        if self.config.slides:
            size = self.config.kept_frames
            state.recent_codes = torch.cat([state.recent_codes, codes], dim=1)[:, -size:]
            if actions is not None:
                state.recent_actions = torch.cat([state.recent_actions, actions], dim=1)[:, -size:]

    def _advance(
        self, state: WorldModelState, action: Tensor | None, noise: Tensor, sampling: Sampling, decode: bool = True
    ) -> _Step:
        """Imagine one frame for checked inputs; changes the state in place."""
        self._make_room(state)
        imagined = imagine_frame(self.transformer, state.cache, action, noise, sampling.temperature, sampling.top_k)
        error = imagined.values.frame_error
        # The root of the mean squared error, whose logarithm is predicted: 1 is the whole range of a pixel.
        state.uncertainty = imagined.uncertainty if error is None else (error.float() / 2).clamp(max=0).exp()
        state.success_probability = self._probability(imagined.values.success, len(state))
        state.termination_probability = self._probability(imagined.values.termination, len(state))
        raw = imagined.values.reward
        state.reward_spread = self._unknown(len(state)) if raw is None else self._reward_scale.spread(raw)
        if self.config.slides:
            state.recent_codes = torch.cat([state.recent_codes[:, 1:], imagined.codes[:, None]], dim=1)
            if action is not None:
                state.recent_actions = torch.cat([state.recent_actions[:, 1:], action[:, None]], dim=1)
        if decode:
            pixels = decode_frame(self.tokenizer, imagined.codes, state.features)
            kept = int(self.config.goal_conditioned)
            newest = to_uint8(pixels)[:, None]
            state.frames = torch.cat([state.frames[:, :kept], state.frames[:, kept + 1 :], newest], dim=1)
        return _Step(imagined.codes, self._reward(imagined.reward, len(state)))

    def _make_room(self, state: WorldModelState) -> None:
        """Slide the position windows that are full, or start these rows anew from their own last frames."""
        full = [row for row, left in enumerate(state.cache.remaining()) if left < self.layout.step_length]
        state.reanchored = torch.zeros_like(state.reanchored)
        if full:
            rows = torch.tensor(full, dtype=torch.int64, device=self.device)
            slides = self.config.slides
            fresh = self._slid(state, full) if slides else self._start(state.frames[rows], state.cache.capacity)
            fresh.reanchored.fill_(True)
            state.put(full, fresh)

    def _slid(self, state: WorldModelState, rows: list[int]) -> WorldModelState:
        """A copy of some rows, whose windows hold the context and the newest imagined frames alone."""
        slid = state.select(rows)
        actions = slid.recent_actions if self.config.action_dim else None
        replace_future(self.transformer, slid.cache, slid.recent_codes, actions)
        return slid

    def _reward(self, raw: Tensor | None, batch: int) -> Tensor:
        """The reward, float32 ``[B]``."""
        return self._unknown(batch) if raw is None else self._reward_scale.decode(raw)

    def _probability(self, logit: Tensor | None, batch: int) -> Tensor:
        """Float32 ``[B]``."""
        return self._unknown(batch) if logit is None else logit.float().sigmoid()

    def _unknown(self, batch: int) -> Tensor:
        return torch.full((batch,), float("nan"), device=self.device, dtype=torch.float32)

    def _noise(self, batch: int, generator: torch.Generator | None, noise: Array | None) -> Tensor:
        """Float32 ``[B, n]`` in [0, 1) on the model's device: ``noise`` if given, else from the generator."""
        shape = (batch, self.layout.tokens_per_frame)
        if noise is not None:
            return checked_noise(noise, shape).to(self.device, torch.float32)
        device = torch.device("cpu") if generator is None else generator.device
        return torch.rand(shape, generator=generator, device=device, dtype=torch.float32).to(self.device)

    def _evaluate(self) -> None:
        """Set evaluation mode, as a trainer may have left the parts in training mode."""
        for module in (self.tokenizer, self.transformer):
            if module.training:
                module.eval()

    def _to_device(self, frames: Array) -> Tensor:
        return to_tensor(frames).to(self.device)

    def _checked_action(self, action: Array | None, rows: tuple[int, ...]) -> Tensor | None:
        """As :func:`checked_action`, in the model's dtype and on its device."""
        checked = checked_action(action, rows, self.config)
        return None if checked is None else checked.to(self.device, self.dtype)

    def _check_state(self, state: WorldModelState) -> None:
        """Raise ConfigError unless the state can be stepped by this model."""
        if state.model is not self:
            raise ConfigError("this state was started by another model; start, or restore, one with this model")
        if not len(state):
            raise ConfigError("this state has no rows: select at least one")
        if (state.cache.device, state.cache.dtype) != (self.device, self.dtype):
            raise ConfigError(
                f"this state is {state.cache.dtype} on {state.cache.device} and the model was moved to {self.dtype} on "
                f"{self.device} since; start one anew"
            )
