"""Settings of DrQ-v2, and what an agent is built from."""

from dataclasses import dataclass
from typing import Any

from worldgym.agents.common.schedules import Linear
from worldgym.errors import ConfigError
from worldgym.precision import Precision, check_precision

SMALLEST_SIDE = 15  # pixels; of smaller frames the convolutions leave no pixel


@dataclass(frozen=True)
class DrQv2Config:
    """The published hyperparameters; smaller ``channels``, ``features`` and ``hidden`` make smaller networks."""

    channels: int = 32
    """Of each of the encoder's four convolutions."""
    features: int = 50
    """That actor and critics each compute from the encoder's output."""
    hidden: int = 1024
    """Width of the two layers after them."""
    learning_rate: float = 1e-4
    """Of critics and encoder."""
    actor_learning_rate: float | None = None
    """None: the same, as published. At a high rate untrained critics drive the actor to the bounds of the action space,
    from where it returns slowly; a lower rate avoids that."""
    tau: float = 0.01
    """Share of the critics that the target critics take over at an update."""
    batch_size: int = 256
    """Transitions in an update."""
    n_step: int = 3
    """Steps whose rewards are summed."""
    discount: float = 0.99
    """Discount factor of a step."""
    stddev_start: float = 1.0
    """Standard deviation of the exploration noise at step 0."""
    stddev_end: float = 0.1
    """Standard deviation from step ``stddev_steps`` on; it falls linearly between."""
    stddev_steps: int = 100_000
    """Environment steps of that schedule (paper: 100,000 easy, 500,000 medium, 2,000,000 hard tasks)."""
    stddev_clip: float = 0.3
    """Bound of the noise within an update."""
    reward_scale: float = 1.0
    """Factor of the rewards before the critics see them. The published 1.0 suits rewards up to 1; with returns of
    thousands the critics, which start near 0, need many updates to reach them."""
    clone_weight: float = 0.0
    """Weight of the squared distance to demonstrated actions in the actor's loss. Above 0 the values in that loss
    are divided by their mean size (Fujimoto and Gu 2021, TD3+BC), so that one weight fits all scales of rewards."""
    train_encoder: bool = True
    """Whether the critics train the encoder (published). False: it stays as cloning left it, so that critics which know
    nothing yet cannot change what the cloned actor sees; an update takes less time, too."""
    pad: int = 4
    """Pixels by which frames are shifted at most."""
    precision: Precision = "auto"
    """Of products and convolutions: float32, bfloat16, or auto, which is bfloat16 where the hardware multiplies it.
    Weights, values, losses and optimizer are float32."""

    def __post_init__(self) -> None:
        counts = (self.channels, self.features, self.hidden, self.batch_size, self.n_step, self.stddev_steps)
        if min(counts) < 1 or not min(self.learning_rate, self.reward_scale) > 0:
            raise ConfigError(f"sizes, counts, learning_rate and reward_scale must be above 0, got {self}")
        if not 0 < self.tau <= 1 or not 0 <= self.discount <= 1:
            raise ConfigError(f"tau must be in (0, 1] and discount in [0, 1], got {self}")
        if not min(self.stddev_start, self.stddev_end, self.stddev_clip, self.clone_weight, self.pad) >= 0:
            raise ConfigError(
                f"standard deviations, stddev_clip, clone_weight and pad must not be negative, got {self}"
            )
        if self.actor_learning_rate is not None and not self.actor_learning_rate > 0:
            raise ConfigError(f"actor_learning_rate must be above 0, got {self.actor_learning_rate}")
        check_precision(self.precision)

    def stddev(self, step: int) -> float:
        """Standard deviation of the exploration noise at an environment step."""
        return Linear(self.stddev_start, self.stddev_end, self.stddev_steps)(step)


@dataclass(frozen=True)
class AgentSpec:
    """What an agent is built from.

    Attributes:
        frame_shape: ``(H, W, 3)`` of one frame.
        frame_stack: how many frames the agent sees, S.
        action_dim: A.
        seed: of weights, exploration noise and updates.
        config: settings.
    """

    frame_shape: tuple[int, ...]
    frame_stack: int
    action_dim: int
    seed: int
    config: DrQv2Config

    def __post_init__(self) -> None:
        expected = f"expected frames [H, W, 3] with H and W of at least {SMALLEST_SIDE}"
        if len(self.frame_shape) != 3 or self.frame_shape[2] != 3 or min(self.frame_shape[:2]) < SMALLEST_SIDE:
            raise ConfigError(f"{expected}, got {list(self.frame_shape)}")
        if self.frame_stack < 1 or self.action_dim < 1 or self.seed < 0:
            raise ConfigError(
                f"frame_stack and action_dim must be at least 1 and seed at least 0, got {self.frame_stack}, "
                f"{self.action_dim} and {self.seed}"
            )

    @property
    def stack_shape(self) -> tuple[int, ...]:
        """``(S, H, W, 3)``."""
        return (self.frame_stack, *self.frame_shape)

    def architecture(self) -> dict[str, Any]:
        """What must be equal for the weights of one agent to fit another."""
        config = {name: getattr(self.config, name) for name in ("channels", "features", "hidden")}
        return {name: getattr(self, name) for name in ("frame_shape", "frame_stack", "action_dim")} | config
