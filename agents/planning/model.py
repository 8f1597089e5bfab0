"""The models that plans are made in: the learned world model, and what a simulator must offer too.

Shapes: N candidates, T steps, S real frames, C context frames, A action dimension, n tokens of a frame.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldgym.agents.planning.cost import Cost, checked_costs
from worldgym.agents.planning.futures import Futures
from worldgym.errors import ConfigError, OutOfMemory
from worldgym.isolation import torch_defaults
from worldgym.world_model import WorldModel, WorldModelState

BUDGET = 2**30
KNOWN_FRAMES = 4  # real frames behind the context
Frames = NDArray[np.uint8]
"""uint8 ``[S, H, W, 3]``, oldest first."""
Actions = NDArray[np.float32]
Act = Callable[[Tensor], NDArray[np.float32]]
"""Maps the last frames, uint8 ``[N, S, H, W, 3]``, to actions float32 ``[N, A]``."""


class PlanningModel(Protocol):
    """Says what action sequences lead to from the present."""

    @property
    def action_dim(self) -> int:
        """A."""

    @property
    def context_length(self) -> int:
        """How many of the newest real frames :meth:`observe` reads."""

    def observe(self, history: Frames, actions: Actions | None = None) -> None:
        """Make the newest real frames the present. May read more than they show, as a simulator's state.

        Args:
            history: the frames.
            actions: that led to the last of them, one for each, float32 ``[K, A]`` with K below S; None where they are
                unknown.
        """

    def check_horizon(self, horizon: int) -> None:
        """Warn of a horizon that the model cannot see in one piece."""

    def futures(self, actions: Tensor, frames: int, generator: torch.Generator) -> Iterator[Futures]:
        """Imagine candidates, float32 ``[N, T, A]``, in chunks; the last ``frames`` frames are decoded."""

    def follow(self, act: Act, frame_stack: int, noise: Tensor, generator: torch.Generator) -> Tensor:
        """Let a policy act in the model.

        Args:
            act: sees the last ``frame_stack`` frames, real ones first, then its own imagined ones.
            frame_stack: S.
            noise: float32 ``[N, T, A]``, added to its actions before they are clipped.
            generator: of the model's sampling.

        Returns:
            The actions taken, float32 ``[N, T, A]`` on the CPU.
        """


def evaluate(model: PlanningModel, cost: Cost, actions: Tensor, generator: torch.Generator) -> Tensor:
    """Costs of candidates, float32 ``[N]`` on the CPU.

    Raises:
        ConfigError: if the cost returns anything but N finite numbers.
        OutOfMemory: if not even one candidate fits the model's budget.
    """
    futures = model.futures(actions, cost.frames, generator)
    return torch.cat([checked_costs(cost(chunk), chunk) for chunk in futures])


class LearnedModel:
    """Plans are made in a world model.

    At every replan the newest real frames are encoded once, and all candidates fork from them: the oldest C as the
    context, the last ones as future frames under the actions that led to them, which predicts rewards better than the
    context alone (docs/experiments.md). The model knows nothing of the past beyond them; in return its errors do not
    pile up over an episode. Before the C-th real frame the first is repeated, as in training.

    All candidates of an evaluation share their random numbers, so that none wins by luck; the next evaluation draws
    others.

    Args:
        model: takes actions.
        budget: bytes that candidates may take at once; more run in chunks, with the same result. None does not limit.

    Raises:
        ConfigError: for an action-free or goal-conditioned model.
        OutOfMemory: if not even one candidate fits the budget.
    """

    def __init__(self, model: WorldModel, budget: int | None = BUDGET) -> None:
        config = model.config
        if not config.action_dim or config.goal_conditioned:
            problem = "an action-free one" if not config.action_dim else "a goal-conditioned one"
            raise ConfigError(
                f"planning needs a world model that takes actions and starts from past frames, got {problem}: add "
                "actions with worldgym.training.initial.with_actions, or choose another checkpoint"
            )
        self.model, self.budget = model, budget
        self.action_dim = config.action_dim
        self._known = min(KNOWN_FRAMES, self._window // 2)
        self.context_length = config.context_length + self._known
        self._state: WorldModelState | None = None
        self._history: Tensor | None = None
        self._context: Tensor | None = None
        self._chunk_size(1)

    def observe(self, history: Frames, actions: Actions | None = None) -> None:
        """Encode the newest frames. Raises InvalidFrames for frames of another size."""
        self._history = torch.from_numpy(np.ascontiguousarray(history)).to(self.model.device)
        length, known = self.model.config.context_length, None
        if actions is not None and len(actions):
            known = actions[None, -self._known :]
        frames = padded(self._history, length + (0 if known is None else known.shape[1]))[None]
        self._context = frames[:, :length]
        self._state = self.model.start(frames, known)

    def check_horizon(self, horizon: int) -> None:
        window = self._window
        if horizon > window:
            happens = "slides" if self.model.config.slides else "is started anew from imagined frames (re-anchored)"
            warnings.warn(
                f"a horizon of {horizon} steps is longer than the model's position window of {window}: it {happens} on "
                "the way, and the end of a plan is less certain",
                stacklevel=3,
            )

    @torch_defaults(grad=False)
    def futures(self, actions: Tensor, frames: int, generator: torch.Generator) -> Iterator[Futures]:
        state, history = self._present()
        assert self._context is not None
        horizon, sampling = actions.shape[1], self.model.config.sampling
        count = min(frames, horizon)
        # Frames can be decoded from tokens afterwards, and only those needed, unless the model began anew meanwhile.
        later = count < horizon and (self.model.config.slides or horizon <= self._window)
        noise = self._noise(horizon, generator)
        for chunk in actions.split(self._chunk_size(len(actions))):
            imagined = self.model.imagine(
                state.fork(len(chunk)),
                chunk.to(self.model.device),
                sampling.temperature,
                sampling.top_k,
                noise=noise.expand(len(chunk), -1, -1),
                decode=bool(count) and not later,
            )
            decoded = imagined.frames[:, horizon - count :] if count else imagined.frames
            if count and later:
                decoded = self.model.decode(self._context, imagined.tokens[:, horizon - count :])
            yield Futures(
                history,
                chunk.to(self.model.device),
                decoded,
                imagined.rewards,
                imagined.reward_spread,
                imagined.uncertainty,
                imagined.success_probability,
                imagined.tokens,
                self._context[0],
            )

    @torch_defaults(grad=False)
    def follow(self, act: Act, frame_stack: int, noise: Tensor, generator: torch.Generator) -> Tensor:
        present, history = self._present()
        sampling, taken = self.model.config.sampling, []
        for chunk in noise.split(self._chunk_size(len(noise))):
            state = present.fork(len(chunk))
            stack = padded(history, frame_stack).expand(len(chunk), -1, -1, -1, -1)
            steps = []
            for step in range(noise.shape[1]):
                action = (torch.from_numpy(act(stack)).cpu() + chunk[:, step]).clamp(-1, 1)
                steps.append(action)
                _, frame, _ = self.model.step(
                    state, action.to(self.model.device), sampling.temperature, sampling.top_k, generator
                )
                stack = torch.cat([stack[:, 1:], frame[:, None]], dim=1)
            taken.append(torch.stack(steps, dim=1))
        return torch.cat(taken)

    @property
    def _window(self) -> int:
        return self.model.layout.horizon(self.model.config.transformer.max_positions)

    def _present(self) -> tuple[WorldModelState, Tensor]:
        assert self._state is not None, "observe() comes first"
        assert self._history is not None
        return self._state, self._history

    def _noise(self, horizon: int, generator: torch.Generator) -> Tensor:
        """Float32 ``[1, T, n]`` in [0, 1), for all candidates."""
        shape = 1, horizon, self.model.layout.tokens_per_frame
        return torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu").to(self.model.device)

    def _chunk_size(self, candidates: int) -> int:
        if self.budget is None:
            return candidates
        size = min(candidates, self.model.largest_batch(self.budget))
        if size < 1:
            raise OutOfMemory(
                f"not even one candidate fits budget={self.budget} bytes; it takes about {self.model.memory(1)}"
            )
        return size


def padded(history: Tensor, count: int) -> Tensor:
    """The last ``count`` frames of ``[S, H, W, 3]``; before the first there are copies of it."""
    missing = count - len(history)
    if missing <= 0:
        return history[-count:]
    return torch.cat([history[:1].expand(missing, *history.shape[1:]), history])
