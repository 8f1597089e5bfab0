"""Settings of MBPO."""

import math
from dataclasses import dataclass, field

from worldgym.agents.common.schedules import Linear
from worldgym.config import check_numbers
from worldgym.errors import ConfigError
from worldgym.precision import Precision, check_precision
from worldgym.training.online import OnlineConfig

ZERO_ALLOWED = ("seed", "steps", "seed_steps", "pixel_reward_updates", "known_frames", "pessimism")


@dataclass(frozen=True)
class MBPOConfig:
    """Settings of the loop. The defaults are the numbers of Table 5 of the paper, which counts simulator steps.

    The preset ``paper`` halves its intervals, because an environment step of Meta-World here is two of them.

    The warm-up runs once, between the ``seed_steps`` and the agent's first own action: behaviour cloning, then updates
    of the world model, then rollouts, then updates of the agent. With demonstrations there may be no ``seed_steps``.
    """

    steps: int = 100_000
    """Environment steps in all, without demonstrations; 0 ends after the warm-up, without a step."""
    seed: int = 0
    """Of everything that the loop samples; the agent has a seed of its own."""
    seed_steps: int = 4000
    """Environment steps with uniformly random actions before anything is trained."""
    updates_per_step: int = 2
    """Updates of the agent after an environment step."""
    update_every: int = 1
    """Environment steps between two rounds of agent updates."""
    warmup_clone_updates: int = 0
    """Updates that train the agent to act as the demonstrations do, before anything else (behaviour cloning)."""
    warmup_model_updates: int = 1000
    """Updates of the tokenizer, and then as many of the transformer, in the warm-up."""
    warmup_rollouts: int = 640
    """Imagined rollouts after these updates, in batches of --rollouts."""
    warmup_critic_updates: int = 0
    """Updates of the critics alone after these rollouts, by which they learn what the cloned actor is worth before it
    follows them."""
    warmup_agent_updates: int = 0
    """Agent gradient updates before its first own action."""
    tokenizer_every: int = 40
    """Environment steps between two updates of the tokenizer."""
    transformer_every: int = 10
    """Environment steps between two updates of the transformer."""
    reward_head_every: int | None = None
    """Environment steps between two ridge regressions of the reward head on the replay. None: the head is trained by
    the transformer's updates alone, which follow an agent to new states slowly."""
    pixel_reward_updates: int = 0
    """Updates of a pixel reward model after each environment step. Above 0 it replaces the world model's reward head in
    rollouts; 0 uses the head, as in the paper."""
    model_batch_size: int = 16
    """Segments in an update of the world model."""
    segment_length: int = 12
    """Frames in a segment."""
    rollout_every: int = 200
    """Environment steps between two batches of rollouts."""
    rollouts: int = 32
    """Rollouts in a batch."""
    horizon: int = 10
    """Steps of a rollout at most."""
    known_frames: int = 0
    """Real frames behind the context, with their actions, that the world model is shown before each rollout: rewards
    and motion are predicted better then. 0 shows it the context alone (paper)."""
    max_uncertainty: float | None = None
    """A rollout ends before the first frame whose uncertainty is larger. None: rollouts have full length."""
    pessimism: float = 0.0
    """How many standard deviations of the predicted reward are subtracted from it in rollouts; above 0 the world model
    needs reward bins."""
    keep_rollouts: int = 100
    """Batches of rollouts to keep; older ones are removed from the replay."""
    real_ratio: Linear = field(default_factory=lambda: Linear(0.5, 0.5, 1))
    """Share of real transitions in an agent's batch, by environment step."""
    capacity_bytes: int = 4 * 2**30
    """Size of each replay; beyond it the oldest steps are removed."""
    precision: Precision = "auto"
    """Of the world model in rollouts: float32, bfloat16, or auto: bfloat16 where the hardware multiplies it."""
    model: OnlineConfig = field(default_factory=OnlineConfig)
    """How the world model is trained."""
    log_every: int = 200
    """Environment steps between two lines of metrics."""
    evaluate_every: int = 2000
    """Environment steps between two evaluations."""
    evaluation_episodes: int = 10
    """Episodes in an evaluation."""
    save_every: int = 2000
    """Environment steps between two checkpoints."""

    def __post_init__(self) -> None:
        numbers = {name for name, value in vars(self).items() if isinstance(value, (int, float))}
        from_zero = {name for name in numbers if name in ZERO_ALLOWED or name.startswith("warmup_")}
        check_numbers(self, above_zero=sorted(numbers - from_zero), from_zero=sorted(from_zero))
        check_precision(self.precision)
        if 0 < self.steps < self.seed_steps:
            raise ConfigError(
                f"steps: expected at least the {self.seed_steps} seed_steps, behind which training begins, got "
                f"{self.steps}"
            )
        if not all(0 <= share <= 1 for share in (self.real_ratio.start, self.real_ratio.end)):
            raise ConfigError(f"real_ratio: expected shares in [0, 1], got {self.real_ratio}")

    @property
    def warmup_clone_units(self) -> int:
        """Warm-up units of behaviour cloning, as many updates each as between two batches of rollouts in the loop."""
        return math.ceil(self.warmup_clone_updates / self.updates_per_rollout_batch)

    @property
    def warmup_model_units(self) -> int:
        """Warm-up units of the world model: one an update, one a batch of rollouts."""
        return 2 * self.warmup_model_updates + math.ceil(self.warmup_rollouts / self.rollouts)

    @property
    def warmup_agent_units(self) -> int:
        """Warm-up units of the agent: as many updates each as between two batches of rollouts in the loop."""
        return math.ceil((self.warmup_critic_updates + self.warmup_agent_updates) / self.updates_per_rollout_batch)

    @property
    def updates_per_rollout_batch(self) -> int:
        """Agent updates between two batches of rollouts."""
        return max(1, self.rollout_every * self.updates_per_step // self.update_every)
