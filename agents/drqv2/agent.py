"""DrQ-v2 (Yarats et al. 2021, "Mastering Visual Continuous Control"): an agent that learns to act from pixels.

A deterministic actor and twin critics look through one convolutional encoder, which the critics' loss alone trains.
Frames are shifted at random before each use, returns span several steps, exploration noise shrinks on a schedule.

Shapes: B batch rows, S stacked frames, H x W pixels, A action dimension, D features of the encoder.
"""

import copy
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from worldgym.agents.common.schedules import Linear
from worldgym.config import from_dict
from worldgym.devices import checked_device
from worldgym.errors import CheckpointError, ConfigError, InvalidFrames, TrainingError
from worldgym.storage.files import atomic_write, parse_json
from worldgym.pretrained import DIGEST, differences, digest
from worldgym.precision import autocast, check_precision
from worldgym.runs.log import Metrics

if TYPE_CHECKING:
    from worldgym.agents.common.replay import Transitions

FORMAT = "worldgym-drqv2-1"
SMALLEST_SIDE = 15  # pixels; of fewer the convolutions leave nothing
LARGEST_ACTION = 1 - 1e-6
INITIALISING, ACTING, UPDATING = range(3)  # what random numbers are drawn for


@dataclass(frozen=True)
class DrQv2Config:
    """The published hyperparameters; smaller ``channels``, ``features`` and ``hidden`` make smaller networks.

    Attributes:
        channels: of each of the encoder's four convolutions.
        features: that actor and critics each make of what the encoder sees.
        hidden: width of the two layers behind them.
        learning_rate: of critics and encoder.
        actor_learning_rate: None is ``learning_rate``, as published. Where that is high, critics that know nothing yet
            drive the actor to the edges of its range, from where it comes back slowly: a lower one waits for them.
        tau: share of the critics that the target critics take over at an update.
        batch_size, n_step, discount: how whoever keeps the replay is to draw batches.
        stddev_start, stddev_end, stddev_steps: exploration noise falls linearly from the first to the second over so
            many environment steps (paper: 100,000 for easy tasks, 500,000 for medium and 2,000,000 for hard ones).
        stddev_clip: how far the noise within an update reaches at most.
        reward_scale: what rewards are multiplied by before the critics see them. The published 1.0 suits rewards up to
            1; where a return is some thousands, critics that start near 0 need many updates to get there.
        pad: pixels by which frames shift at most.
        precision: of products and convolutions: "float32", "bfloat16", or "auto", which is bfloat16 where the hardware
            has it. Weights, values, losses and optimizer are float32 always.
    """

    channels: int = 32
    features: int = 50
    hidden: int = 1024
    learning_rate: float = 1e-4
    actor_learning_rate: float | None = None
    tau: float = 0.01
    batch_size: int = 256
    n_step: int = 3
    discount: float = 0.99
    stddev_start: float = 1.0
    stddev_end: float = 0.1
    stddev_steps: int = 100_000
    stddev_clip: float = 0.3
    reward_scale: float = 1.0
    pad: int = 4
    precision: str = "auto"

    def __post_init__(self) -> None:
        counts = (self.channels, self.features, self.hidden, self.batch_size, self.n_step, self.stddev_steps)
        if min(counts) < 1 or not min(self.learning_rate, self.reward_scale) > 0:
            raise ConfigError(f"sizes, counts, learning_rate and reward_scale must be above 0, got {self}")
        if not 0 < self.tau <= 1 or not 0 <= self.discount <= 1:
            raise ConfigError(f"tau must be in (0, 1] and discount in [0, 1], got {self}")
        if not min(self.stddev_start, self.stddev_end, self.stddev_clip, self.pad) >= 0:
            raise ConfigError(f"standard deviations, stddev_clip and pad must not be negative, got {self}")
        if self.actor_learning_rate is not None and not self.actor_learning_rate > 0:
            raise ConfigError(f"actor_learning_rate must be above 0, got {self.actor_learning_rate}")
        check_precision(self.precision)

    def stddev(self, step: int) -> float:
        """Standard deviation of the exploration noise at an environment step."""
        return Linear(self.stddev_start, self.stddev_end, self.stddev_steps)(step)


def random_shift(frames: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """Shift every row, uint8 ``[B, S, H, W, 3]``, by up to ``pad`` pixels each way; edges repeat, a stack stays whole.

    The paper interpolates at shifted positions, but they are whole pixels: cutting the frames out gives the same.
    """
    height, width = frames.shape[2:4]
    wide = torch.cat([frames[..., :1, :]] * pad + [frames] + [frames[..., -1:, :]] * pad, dim=3)
    padded = torch.cat([wide[:, :, :1]] * pad + [wide] + [wide[:, :, -1:]] * pad, dim=2)
    shifts = torch.randint(2 * pad + 1, (len(frames), 2), generator=generator).tolist()
    return torch.stack([stack[:, y : y + height, x : x + width] for stack, (y, x) in zip(padded, shifts, strict=True)])


def within_bounds(actions: Tensor) -> Tensor:
    """Actions clamped into (-1, 1); gradients pass as if they had not been, so that none gets stuck at the border."""
    clamped = actions.clamp(-LARGEST_ACTION, LARGEST_ACTION)
    return clamped.detach() + (actions - actions.detach())


class Encoder(nn.Module):
    """Frames uint8 ``[B, S, H, W, 3]`` to features ``[B, D]``."""

    def __init__(self, frame_shape: tuple[int, ...], frame_stack: int, channels: int) -> None:
        super().__init__()
        # The paper's first convolution has 3 S input channels. As one over S x H x W, as deep as the stack, it computes
        # the same from frames as they lie in memory, without sorting their pixels anew.
        self.first = nn.Conv3d(3, channels, (frame_stack, 3, 3), stride=(1, 2, 2))
        self.rest = nn.Sequential(nn.ReLU())
        for _ in range(3):
            self.rest.extend([nn.Conv2d(channels, channels, 3), nn.ReLU()])
        height, width = ((side - 3) // 2 - 5 for side in frame_shape[:2])
        self.dim = channels * height * width

    def forward(self, frames: Tensor) -> Tensor:
        kind = frames.device.type
        half = torch.is_autocast_enabled(kind)
        pixels = frames.to(torch.get_autocast_dtype(kind) if half else torch.float32)
        # x / 255 - 0.5, written so that bfloat16 rounds once: x and x - 127.5 are exact.
        pixels = pixels.sub_(127.5).div_(255)
        maps: Tensor = self.rest(self.first(pixels.permute(0, 4, 1, 2, 3)).squeeze(2))
        # Channels last is the order in which the convolutions leave them.
        return maps.permute(0, 2, 3, 1).flatten(1)


class Trunk(nn.Sequential):
    """Features of the encoder ``[B, D]`` to a few, float32 ``[B, features]`` in (-1, 1)."""

    def __init__(self, dim: int, features: int) -> None:
        super().__init__(nn.Linear(dim, features), nn.LayerNorm(features), nn.Tanh())

    def forward(self, features: Tensor) -> Tensor:
        linear, norm, squash = self
        found: Tensor = squash(norm(linear(features).float()))
        return found


class LastLinear(nn.Linear):
    """A linear layer that stays float32: 8 bits would blur values of hundreds by whole rewards."""

    def forward(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return super().forward(hidden.float())


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), LastLinear(hidden, outputs)
    )


class Actor(nn.Module):
    """The policy: features ``[B, D]`` to mean actions, float32 ``[B, A]`` in (-1, 1)."""

    def __init__(self, dim: int, action_dim: int, config: DrQv2Config) -> None:
        super().__init__()
        self.trunk = Trunk(dim, config.features)
        self.policy = _perceptron(config.features, config.hidden, action_dim)

    def forward(self, features: Tensor) -> Tensor:
        return torch.tanh(self.policy(self.trunk(features)))


class Critic(nn.Module):
    """Twin values of actions ``[B, A]``, where the encoder sees ``[B, D]``: float32 ``[B]`` twice."""

    def __init__(self, dim: int, action_dim: int, config: DrQv2Config) -> None:
        super().__init__()
        self.trunk = Trunk(dim, config.features)
        self.first = _perceptron(config.features + action_dim, config.hidden, 1)
        self.second = _perceptron(config.features + action_dim, config.hidden, 1)

    def forward(self, features: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        inputs = torch.cat([self.trunk(features), actions], dim=1)
        return self.first(inputs)[:, 0], self.second(inputs)[:, 0]


@dataclass(frozen=True)
class About:
    """What an agent is built from: frames ``[H, W, 3]``, how many are stacked, A, the seed and the settings."""

    frame_shape: tuple[int, ...]
    frame_stack: int
    action_dim: int
    seed: int
    config: DrQv2Config

    def __post_init__(self) -> None:
        small = f"H and W at least {SMALLEST_SIDE}"
        if len(self.frame_shape) != 3 or self.frame_shape[2] != 3 or min(self.frame_shape[:2]) < SMALLEST_SIDE:
            raise ConfigError(f"expected frames [H, W, 3] with {small}, got {list(self.frame_shape)}")
        if self.frame_stack < 1 or self.action_dim < 1 or self.seed < 0:
            raise ConfigError(
                f"frame_stack and action_dim must be at least 1 and seed at least 0, got {self.frame_stack}, "
                f"{self.action_dim} and {self.seed}"
            )

    @property
    def stack_shape(self) -> tuple[int, ...]:
        return (self.frame_stack, *self.frame_shape)

    def architecture(self) -> dict[str, Any]:
        """What has to be equal for one agent's weights to be another's."""
        config = {name: getattr(self.config, name) for name in ("channels", "features", "hidden")}
        return {name: getattr(self, name) for name in ("frame_shape", "frame_stack", "action_dim")} | config


class DrQv2:
    """The agent.

    Equal seeds and equal batches give equal agents, bit for bit on one machine. All that an update draws is a function
    of the seed and of how many went before it, so an agent that is saved and loaded goes on as if it had not been.

    Attributes:
        about: what it is built from.
        step: environment steps taken so far, which the training loop counts; exploration noise follows it.
        updates: how many updates there have been.
    """

    def __init__(
        self,
        frame_shape: tuple[int, ...],
        frame_stack: int,
        action_dim: int,
        config: DrQv2Config | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        """An untrained agent for stacks of ``frame_stack`` frames ``[H, W, 3]``.

        Raises ConfigError for sizes that no agent can have, or a device that there is not.
        """
        shape = tuple(int(side) for side in frame_shape)
        self.about = About(shape, int(frame_stack), int(action_dim), int(seed), config or DrQv2Config())
        self.config, self.device = self.about.config, checked_device(device)
        self.step = self.updates = 0
        self._explored = 0  # how often noise was drawn without a generator given
        self._precision = autocast(self.config.precision, self.device)
        with torch.random.fork_rng(devices=[]):  # modules draw weights of their own, which are not kept
            self.encoder = Encoder(self.about.frame_shape, frame_stack, self.config.channels)
            self.actor = Actor(self.encoder.dim, action_dim, self.config)
            self.critic = Critic(self.encoder.dim, action_dim, self.config)
        for number, module in enumerate((self.encoder, self.actor, self.critic)):
            _initialise(module, _generator(seed, INITIALISING, number))
            module.to(self.device)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self._critic_optimizer = _adam([self.encoder, self.critic], self.config.learning_rate)
        self._actor_optimizer = _adam([self.actor], self.config.actor_learning_rate or self.config.learning_rate)

    def act(
        self, frames: NDArray[np.uint8] | Tensor, explore: bool = True, generator: torch.Generator | None = None
    ) -> NDArray[np.float32]:
        """Actions float32 ``[B, A]`` in (-1, 1) for frames uint8 ``[B, S, H, W, 3]``; ``[A]`` for ``[S, H, W, 3]``.

        explore: add noise to the policy's mean, as much as the schedule has at ``step``.
        generator: a CPU one that draws the noise. Without it the noise is a function of the seed and of how often it
            was drawn so before, which is saved with the agent.

        Raises InvalidFrames for frames of another shape or dtype.
        """
        stacks = self._checked_frames(frames)
        batch = stacks.reshape(-1, *stacks.shape[-4:]).to(self.device)
        with torch.inference_mode(), self._precision:
            actions = self.actor(self.encoder(batch))
            if explore:
                actions = within_bounds(actions + self._noise(len(batch), generator or self._next_generator()))
        found: NDArray[np.float32] = actions.reshape(*stacks.shape[:-4], self.about.action_dim).cpu().numpy()
        return found

    def update(self, batch: "Transitions") -> Metrics:
        """Learn from a batch: critics and encoder first, then the actor, then the target critics.

        Returns ``critic_loss`` and ``actor_loss``; ``q``, ``target_q`` and ``reward``, means of the first critic's
        values, of what they should have been and of the batch's returns; ``stddev`` of the exploration noise.

        Raises TrainingError for a batch of other shapes or dtypes, or one that is not finite, before anything is
        learnt from it; and where the losses stop being finite.
        """
        self._check(batch)
        generator = _generator(self.about.seed, UPDATING, self.updates)
        frames, actions, rewards, discounts, next_frames = (each.to(self.device) for each in batch)
        frames = random_shift(frames, self.config.pad, generator)
        next_frames = random_shift(next_frames, self.config.pad, generator)
        with self._precision:
            # First with gradients, then without: autocast keeps a converted weight as it first met it.
            features = self.encoder(frames)
            targets = self._targets(rewards, discounts, next_frames, generator)
            first, second = self.critic(features, actions)
        critic_loss = F.mse_loss(first, targets) + F.mse_loss(second, targets)
        _descend(critic_loss, self._critic_optimizer)
        features = features.detach()
        with self._precision:
            chosen = within_bounds(self.actor(features) + self._noise(len(features), generator, clip=True))
            actor_loss = -torch.minimum(*self.critic(features, chosen)).mean()
        _descend(actor_loss, self._actor_optimizer)
        self._move_target()
        self.updates += 1
        means = {"q": first.mean(), "target_q": targets.mean(), "reward": rewards.mean()}
        return self._metrics({"critic_loss": critic_loss, "actor_loss": actor_loss, **means})

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, optimizers and counters by name: the agent's own tensors, not copies."""
        state: dict[str, Tensor] = {}
        for part, module in self._parts().items():
            state |= {f"{part}.{name}": value for name, value in module.state_dict().items()}
        moments = {**self._critic_optimizer.state, **self._actor_optimizer.state}
        for part, module in self._parts().items():
            for name, weight in module.named_parameters():
                state |= {f"adam.{part}.{name}.{key}": value for key, value in moments.get(weight, {}).items()}
        return state | {name: torch.tensor(value) for name, value in self._counters().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Become the agent that gave ``state``, except for its seed and settings.

        Raises CheckpointError, which lists every tensor that is missing, unknown, misshapen or not finite; the agent
        is then as it was before.
        """
        mine = self.state_dict()
        if problems := differences("agent", mine, dict(state)):
            listed = "\n".join(f"  - {problem}" for problem in sorted(problems))
            raise CheckpointError(f"the state of another agent than this one:\n{listed}")
        with torch.no_grad():
            for name, value in mine.items():
                value.copy_(state[name])
        self.step, self.updates, self._explored = (int(state[name]) for name in self._counters())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of ``state_dict`` and what the agent is built from to one safetensors file.

        Raises StorageError where the disk refuses; what stood there before is then still there.
        """
        tensors = {name: value.contiguous() for name, value in self.state_dict().items()}
        about = {"format": FORMAT, "agent": json.dumps(asdict(self.about)), DIGEST: digest(tensors)}
        with atomic_write(path) as aside:
            save_file(tensors, aside, about)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Become the agent in a file, except for its seed and settings.

        Raises CheckpointError where there is none, where it is damaged, or where it is built otherwise; the agent is
        then as it was before.
        """
        about, tensors = _read(path)
        mine, found = self.about.architecture(), about.architecture()
        if different := [f"{name} {found[name]} instead of {mine[name]}" for name in mine if found[name] != mine[name]]:
            raise CheckpointError(
                f"{path} holds an agent with {', '.join(different)}; build one like it, or read it with DrQv2.from_file"
            )
        self.load_state_dict(tensors)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> "DrQv2":
        """The agent in a file, with its seed and settings. Raises CheckpointError where there is none."""
        about, tensors = _read(path)
        agent = cls(about.frame_shape, about.frame_stack, about.action_dim, about.config, about.seed, device)
        agent.load_state_dict(tensors)
        return agent

    @torch.no_grad()
    def _targets(self, rewards: Tensor, discounts: Tensor, next_frames: Tensor, generator: torch.Generator) -> Tensor:
        """What the critics should say, ``[B]``: the return, and the lesser value of where it led."""
        features = self.encoder(next_frames)
        actions = within_bounds(self.actor(features) + self._noise(len(features), generator, clip=True))
        return self.config.reward_scale * rewards + discounts * torch.minimum(*self.target(features, actions))

    @torch.no_grad()
    def _move_target(self) -> None:
        for slow, fast in zip(self.target.parameters(), self.critic.parameters(), strict=True):
            slow.lerp_(fast, self.config.tau)

    def _noise(self, rows: int, generator: torch.Generator, clip: bool = False) -> Tensor:
        """Gaussian noise, float32 ``[B, A]``, as wide as the schedule says."""
        noise = torch.randn(rows, self.about.action_dim, generator=generator) * self.config.stddev(self.step)
        limit = self.config.stddev_clip if clip else math.inf
        return noise.clamp_(-limit, limit).to(self.device)

    def _next_generator(self) -> torch.Generator:
        self._explored += 1
        return _generator(self.about.seed, ACTING, self._explored)

    def _parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "actor": self.actor, "critic": self.critic, "target": self.target}

    def _counters(self) -> dict[str, int]:
        return {"step": self.step, "updates": self.updates, "explored": self._explored}

    def _metrics(self, tensors: Mapping[str, Tensor]) -> Metrics:
        """Figures, brought from the device at once. Raises TrainingError where the losses are not finite."""
        found: Metrics = dict(zip(tensors, torch.stack([*tensors.values()]).tolist(), strict=True))
        if not math.isfinite(found["critic_loss"] + found["actor_loss"]):
            raise TrainingError(
                f"the losses of update {self.updates} are {found['critic_loss']} and {found['actor_loss']}, so this "
                "agent is of no more use. Go on from one that was saved before, with a lower learning_rate than "
                f"{self.config.learning_rate} or with smaller rewards (mean return here: {found['reward']:.3g})"
            )
        return {**found, "stddev": self.config.stddev(self.step)}

    def _checked_frames(self, frames: NDArray[np.uint8] | Tensor) -> Tensor:
        found = frames if isinstance(frames, Tensor) else torch.from_numpy(np.array(frames))
        shape = self.about.stack_shape
        if found.dtype != torch.uint8 or found.shape[-4:] != shape or found.ndim > 5:
            raise InvalidFrames(
                f"expected uint8 frames {list(shape)}, or a batch of them, got {found.dtype} {list(found.shape)}: "
                f"stack the last {self.about.frame_stack} frames, oldest first"
            )
        return found

    def _check(self, batch: "Transitions") -> None:
        """Raise TrainingError for what would broadcast or spoil the weights without a word."""
        rows, stack = len(batch.frames), self.about.stack_shape
        shapes = ((rows, *stack), (rows, self.about.action_dim), (rows,), (rows,), (rows, *stack))
        for name, value, shape in zip(batch._fields, batch, shapes, strict=True):
            dtype = torch.uint8 if name.endswith("frames") else torch.float32
            if not rows or value.shape != shape or value.dtype != dtype:
                raise TrainingError(
                    f"expected {name} {dtype} {list(shape)}, got {value.dtype} {list(value.shape)}: this batch was "
                    "made for another agent"
                )
            if dtype == torch.float32 and not torch.isfinite(value).all():
                raise TrainingError(f"the batch's {name} are not all finite: look for the episode they came from")


def _descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One step down the loss with the optimizer's own weights, and no work for the gradients of others."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward(inputs=[weight for group in optimizer.param_groups for weight in group["params"]])
    optimizer.step()


def _adam(modules: Iterable[nn.Module], learning_rate: float) -> torch.optim.Adam:
    """Adam, its moments in place from the start: a state then looks the same before and after the first update."""
    weights = [weight for module in modules for weight in module.parameters()]
    optimizer = torch.optim.Adam(weights, lr=learning_rate, fused=True)
    for weight in weights:
        zeros = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[weight] = {"step": torch.zeros((), device=weight.device), **zeros}
    return optimizer


def _initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Orthogonal weights, with the gain of a ReLU where they are a convolution's, and no biases."""
    for name, weight in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(weight)
        elif weight.ndim > 1:
            nn.init.orthogonal_(weight, math.sqrt(2) if weight.ndim > 2 else 1.0, generator)


def _generator(*key: int) -> torch.Generator:
    """Random numbers that are a function of the key alone."""
    (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(seed))


def _read(path: str | os.PathLike[str]) -> tuple[About, dict[str, Tensor]]:
    """What a saved agent is built from, and its state. Raises CheckpointError for anything but a whole file of one."""
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): expected what DrQv2.save wrote") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected an agent of format {FORMAT!r}, got {metadata.get('format')!r}")
    if metadata.get(DIGEST) != digest(tensors):
        raise CheckpointError(f"{path} is damaged or was changed after it was saved (its {DIGEST} differs)")
    try:
        return from_dict(About, parse_json(metadata.get("agent", ""), "agent"), os.fspath(path)), tensors
    except ConfigError as error:
        raise CheckpointError(f"{path} does not say what agent it holds: {error}") from error
