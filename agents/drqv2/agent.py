"""DrQ-v2 (Yarats et al. 2021, "Mastering Visual Continuous Control"): an agent that learns to act from pixels.

A deterministic actor and twin critics see frames through one convolutional encoder, trained by the critics' loss alone.
Frames are shifted at random before each use, returns span several steps, exploration noise shrinks on a schedule.

Shapes: B batch rows, S stacked frames, H x W pixels, A action dimension, D features of the encoder.
"""

import copy
import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from worldgym.agents.common.transitions import Transitions
from worldgym.agents.drqv2.augmentation import random_shift
from worldgym.agents.drqv2.config import AgentSpec, DrQv2Config
from worldgym.agents.drqv2.networks import Actor, Critic, Encoder
from worldgym.config import from_dict
from worldgym.devices import checked_device
from worldgym.errors import CheckpointError, ConfigError, InvalidFrames, TrainingError
from worldgym.isolation import torch_defaults
from worldgym.precision import autocast
from worldgym.pretrained import differences
from worldgym.runs.log import Metrics
from worldgym.storage.files import parse_json
from worldgym.storage.optimizer import optimizer_state_dict
from worldgym.storage.tensors import Tensors, add_prefix, read_tensors, write_tensors

FORMAT = "worldgym-drqv2-1"
LARGEST_ACTION = 1 - 1e-6
SMALLEST_VALUE = 1e-3  # by which values are divided at least
INITIALISING, ACTING, UPDATING = range(3)  # what random numbers are used for


def within_bounds(actions: Tensor) -> Tensor:
    """Actions clamped into (-1, 1), with the gradients of unclamped ones, so that none gets stuck at a bound."""
    clamped = actions.clamp(-LARGEST_ACTION, LARGEST_ACTION)
    return clamped.detach() + (actions - actions.detach())


class DrQv2:
    """The agent.

    Equal seeds and equal batches give equal agents, bit for bit on one machine. Everything that an update samples is a
    function of the seed and of the number of updates before it, so a saved and loaded agent continues exactly.

    Args:
        frame_shape: ``(H, W, 3)`` of one frame.
        frame_stack: frames that the agent sees, S.
        action_dim: A.
        config: settings; the published ones unless given.
        seed: of weights, exploration noise and updates.
        device: such as ``cpu`` or ``cuda:1``.

    Attributes:
        spec: what it is built from.
        step: environment steps done, set by the training loop; the exploration noise depends on it.
        updates: number of updates done.

    Raises:
        ConfigError: for sizes that no agent can have, or a device that cannot be used here.
    """

    @torch_defaults()
    def __init__(
        self,
        frame_shape: tuple[int, ...],
        frame_stack: int,
        action_dim: int,
        config: DrQv2Config | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        shape = tuple(int(side) for side in frame_shape)
        self.spec = AgentSpec(shape, int(frame_stack), int(action_dim), int(seed), config or DrQv2Config())
        self.config, self.device = self.spec.config, checked_device(device)
        self.step = self.updates = 0
        self._explored = 0  # number of calls of act() without a generator
        self._precision = autocast(self.config.precision, self.device)
        with torch.random.fork_rng(devices=[]):  # modules sample initial weights, which are replaced below
            self.encoder = Encoder(self.spec.frame_shape, frame_stack, self.config.channels)
            self.actor = Actor(self.encoder.dim, action_dim, self.config)
            self.critic = Critic(self.encoder.dim, action_dim, self.config)
        for number, module in enumerate((self.encoder, self.actor, self.critic)):
            _initialise(module, _generator(seed, INITIALISING, number))
            module.to(self.device)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self._critic_optimizer = _adam([self.encoder, self.critic], self.config.learning_rate)
        self._actor_optimizer = _adam([self.actor], self.config.actor_learning_rate or self.config.learning_rate)

    @torch_defaults(grad=False)
    def act(
        self, frames: NDArray[np.uint8] | Tensor, explore: bool = True, generator: torch.Generator | None = None
    ) -> NDArray[np.float32]:
        """Choose actions.

        Args:
            frames: uint8 ``[S, H, W, 3]``, or a batch ``[B, S, H, W, 3]``.
            explore: add noise to the policy's mean, with the standard deviation that the schedule has at ``step``.
            generator: a CPU one that samples the noise. Without it the noise is a function of the seed and of the
                number of such calls, which is saved with the agent.

        Returns:
            Actions in (-1, 1), float32 ``[A]`` or ``[B, A]``.

        Raises:
            InvalidFrames: for frames of another shape or dtype.
        """
        stacks = self._checked_frames(frames)
        batch = stacks.reshape(-1, *stacks.shape[-4:]).to(self.device)
        with torch.inference_mode(), self._precision:
            actions = self.actor(self.encoder(batch))
            if explore:
                actions = within_bounds(actions + self._noise(len(batch), generator or self._next_generator()))
        found: NDArray[np.float32] = actions.reshape(*stacks.shape[:-4], self.spec.action_dim).cpu().numpy()
        return found

    @torch_defaults()
    def clone(self, batch: Transitions) -> Metrics:
        """Train encoder and actor to choose a batch's actions (behaviour cloning); it counts as an update.

        Returns:
            ``clone_loss``, the mean squared distance of an action.

        Raises:
            TrainingError: as :meth:`update`.
        """
        generator = _generator(self.spec.seed, UPDATING, self.updates)
        loss = self._clone_loss(batch, generator, through_encoder=True)
        _descend(loss, self._critic_optimizer, self._actor_optimizer)
        self.updates += 1
        return {"clone_loss": loss.item()}

    @torch_defaults()
    def update(self, batch: Transitions, demonstrations: Transitions | None = None, actor: bool = True) -> Metrics:
        """Train on a batch: critics and encoder first, then the actor, then the target critics.

        Args:
            batch: real and imagined steps.
            demonstrations: steps whose actions the actor stays close to, by ``clone_weight``.
            actor: whether the actor is trained; without it the critics learn what the present one is worth.

        Returns:
            ``critic_loss`` and ``actor_loss``; the means ``q`` (the first critic's values), ``target_q`` (their
            targets) and ``reward`` (the batch's n-step returns); ``stddev`` of the exploration noise.

        Raises:
            TrainingError: for a batch of other shapes or dtypes, or one that is not finite, before anything is trained;
                and if the losses are not finite.
        """
        self._check(batch)
        generator = _generator(self.spec.seed, UPDATING, self.updates)
        frames, actions, rewards, discounts, next_frames = (each.to(self.device) for each in batch)
        frames = random_shift(frames, self.config.pad, generator)
        next_frames = random_shift(next_frames, self.config.pad, generator)
        with self._precision:
            # First with gradients, then without: autocast caches a converted weight as it was first used.
            with torch.set_grad_enabled(self.config.train_encoder):
                features = self.encoder(frames)
            targets = self._targets(rewards, discounts, next_frames, generator)
            first, second = self.critic(features, actions)
        critic_loss = F.mse_loss(first, targets) + F.mse_loss(second, targets)
        _descend(critic_loss, self._critic_optimizer)
        actor_loss = self._actor_loss(features.detach(), demonstrations, generator)
        if actor:
            _descend(actor_loss, self._actor_optimizer)
        self._move_target()
        self.updates += 1
        means = {"q": first.mean(), "target_q": targets.mean(), "reward": rewards.mean()}
        return self._metrics({"critic_loss": critic_loss, "actor_loss": actor_loss, **means})

    def state_dict(self) -> Tensors:
        """Weights, optimizers and counters by name: the agent's own tensors, not copies."""
        state: Tensors = {}
        for part, module in self._modules().items():
            state |= add_prefix(part, module.state_dict())
        for optimizer in (self._critic_optimizer, self._actor_optimizer):
            state |= add_prefix("adam", optimizer_state_dict(optimizer, self._parameters()))
        return state | {
            name: torch.tensor(value, dtype=torch.int64, device="cpu") for name, value in self._counters().items()
        }

    @torch_defaults()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Become the agent that gave ``state``, except for its seed and settings.

        Raises:
            CheckpointError: lists every tensor that is missing, unknown, misshapen or not finite; the agent is
                unchanged then.
        """
        own = self.state_dict()
        if problems := differences("agent", own, dict(state)):
            listed = "\n".join(f"  - {problem}" for problem in sorted(problems))
            raise CheckpointError(f"expected the state of an agent like this one, got another:\n{listed}")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(state[name])
        self.step, self.updates, self._explored = (int(state[name]) for name in self._counters())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the agent's state and what it is built from to one safetensors file.

        Raises:
            StorageError: if the file cannot be written; an earlier file of this name is kept.
        """
        spec = json.dumps(dataclasses.asdict(self.spec))
        write_tensors(path, self.state_dict(), {"format": FORMAT, "agent": spec})

    def load(self, path: str | os.PathLike[str]) -> None:
        """Become the agent in a file, except for its seed and settings.

        Raises:
            CheckpointError: if the file is missing or damaged, or holds an agent of another architecture; the agent is
                unchanged then.
        """
        spec, tensors = _read(path)
        own, saved = self.spec.architecture(), spec.architecture()
        if different := [f"{name} {saved[name]} instead of {own[name]}" for name in own if saved[name] != own[name]]:
            raise CheckpointError(
                f"{path} holds an agent with {', '.join(different)}; build one like it, or use DrQv2.from_file"
            )
        self.load_state_dict(tensors)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> "DrQv2":
        """The agent in a file, with its seed and settings.

        Raises:
            CheckpointError: if the file is missing or damaged.
            ConfigError: for a device that cannot be used here.
        """
        spec, tensors = _read(path)
        agent = cls(spec.frame_shape, spec.frame_stack, spec.action_dim, spec.config, spec.seed, device)
        agent.load_state_dict(tensors)
        return agent

    def _actor_loss(self, features: Tensor, demonstrations: Transitions | None, generator: torch.Generator) -> Tensor:
        """Minus the mean value of the actor's actions, and the distance to demonstrated ones."""
        with self._precision:
            chosen = within_bounds(self.actor(features) + self._noise(len(features), generator, clip=True))
            loss = -torch.minimum(*self.critic(features, chosen)).mean()
        if demonstrations is None:
            return loss
        loss = loss / loss.detach().abs().clamp_min(SMALLEST_VALUE)
        return loss + self.config.clone_weight * self._clone_loss(demonstrations, generator, through_encoder=False)

    def _clone_loss(self, batch: Transitions, generator: torch.Generator, through_encoder: bool) -> Tensor:
        """The mean squared distance of the actor's actions to a batch's; gradients may end before the encoder."""
        self._check(batch)
        frames = random_shift(batch.frames.to(self.device), self.config.pad, generator)
        with self._precision:
            with torch.set_grad_enabled(through_encoder):
                features = self.encoder(frames)
            chosen = self.actor(features)
        distances: Tensor = (chosen - batch.actions.to(self.device)).square().sum(dim=1)
        return distances.mean()

    @torch.no_grad()
    def _targets(self, rewards: Tensor, discounts: Tensor, next_frames: Tensor, generator: torch.Generator) -> Tensor:
        """The critics' targets, ``[B]``: the n-step return plus the smaller of the target critics' next values."""
        features = self.encoder(next_frames)
        actions = within_bounds(self.actor(features) + self._noise(len(features), generator, clip=True))
        return self.config.reward_scale * rewards + discounts * torch.minimum(*self.target(features, actions))

    @torch.no_grad()
    def _move_target(self) -> None:
        for slow, fast in zip(self.target.parameters(), self.critic.parameters(), strict=True):
            slow.lerp_(fast, self.config.tau)

    def _noise(self, rows: int, generator: torch.Generator, clip: bool = False) -> Tensor:
        """Gaussian noise, float32 ``[B, A]``, with the schedule's standard deviation."""
        shape = rows, self.spec.action_dim
        noise = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
        noise *= self.config.stddev(self.step)
        limit = self.config.stddev_clip if clip else math.inf
        return noise.clamp_(-limit, limit).to(self.device)

    def _next_generator(self) -> torch.Generator:
        self._explored += 1
        return _generator(self.spec.seed, ACTING, self._explored)

    def _modules(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "actor": self.actor, "critic": self.critic, "target": self.target}

    def _parameters(self) -> dict[str, nn.Parameter]:
        """Everything that the optimizers train, by name."""
        trained = {"encoder": self.encoder, "actor": self.actor, "critic": self.critic}
        return {
            f"{part}.{name}": weight for part, module in trained.items() for name, weight in module.named_parameters()
        }

    def _counters(self) -> dict[str, int]:
        return {"step": self.step, "updates": self.updates, "explored": self._explored}

    def _metrics(self, tensors: Mapping[str, Tensor]) -> Metrics:
        """Metrics as Python numbers, in one transfer. Raises TrainingError if the losses are not finite."""
        found: Metrics = dict(zip(tensors, torch.stack([*tensors.values()]).tolist(), strict=True))
        if not math.isfinite(found["critic_loss"] + found["actor_loss"]):
            raise TrainingError(
                f"Training diverged at update {self.updates}: critic loss {found['critic_loss']}, actor loss "
                f"{found['actor_loss']}. Restart from an earlier checkpoint, with a learning_rate below "
                f"{self.config.learning_rate} or a smaller reward_scale (mean n-step return: {found['reward']:.3g})"
            )
        return {**found, "stddev": self.config.stddev(self.step)}

    def _checked_frames(self, frames: NDArray[np.uint8] | Tensor) -> Tensor:
        found = frames if isinstance(frames, Tensor) else torch.from_numpy(np.array(frames))
        shape = self.spec.stack_shape
        if found.dtype != torch.uint8 or found.shape[-4:] != shape or found.ndim > 5:
            raise InvalidFrames(
                f"expected uint8 frames {list(shape)}, or a batch of them, got {found.dtype} {list(found.shape)}: "
                f"stack the last {self.spec.frame_stack} frames, oldest first"
            )
        return found

    def _check(self, batch: Transitions) -> None:
        """Raise TrainingError for shapes that would broadcast and values that would destroy the weights."""
        rows, stack = len(batch.frames), self.spec.stack_shape
        shapes = ((rows, *stack), (rows, self.spec.action_dim), (rows,), (rows,), (rows, *stack))
        for name, value, shape in zip(batch._fields, batch, shapes, strict=True):
            dtype = torch.uint8 if name.endswith("frames") else torch.float32
            if not rows or value.shape != shape or value.dtype != dtype:
                raise TrainingError(
                    f"expected {name} {dtype} {list(shape)}, got {value.dtype} {list(value.shape)}: use batches of a "
                    "replay with the agent's sizes"
                )
            if dtype == torch.float32 and not torch.isfinite(value).all():
                raise TrainingError(f"expected finite {name}, got others: remove the episode that they come from")


def _descend(loss: Tensor, *optimizers: torch.optim.Optimizer) -> None:
    """One step of optimizers; gradients are computed for their parameters only."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    loss.backward(inputs=[weight for group in groups for weight in group["params"]])
    for optimizer in optimizers:
        optimizer.step()


def _adam(modules: Iterable[nn.Module], learning_rate: float) -> torch.optim.Adam:
    """Adam with its moments allocated, so that the state has the same entries before and after the first update."""
    weights = [weight for module in modules for weight in module.parameters()]
    optimizer = torch.optim.Adam(weights, lr=learning_rate, fused=True)
    for weight in weights:
        zeros = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[weight] = {"step": torch.zeros((), dtype=torch.float32, device=weight.device), **zeros}
    return optimizer


def _initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Orthogonal weights, for convolutions with the gain of a ReLU, and zero biases."""
    for name, weight in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(weight)
        elif weight.ndim > 1:
            nn.init.orthogonal_(weight, math.sqrt(2) if weight.ndim > 2 else 1.0, generator)


def _generator(*key: int) -> torch.Generator:
    """A CPU generator that depends on the key alone."""
    (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator("cpu").manual_seed(int(seed))


def _read(path: str | os.PathLike[str]) -> tuple[AgentSpec, Tensors]:
    """What a saved agent is built from, and its state. Raises CheckpointError unless the file is a complete one."""
    tensors, metadata = read_tensors(path, "an agent saved by DrQv2.save", file_format=FORMAT)
    try:
        return from_dict(AgentSpec, parse_json(metadata.get("agent", ""), "agent"), os.fspath(path)), tensors
    except ConfigError as error:
        raise CheckpointError(f"{path}: its metadata do not describe an agent ({error})") from error
