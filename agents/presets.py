"""Presets: the paper's settings for its six Meta-World tasks, smaller ones for a CPU, and those of the toy worlds."""

import dataclasses
from dataclasses import dataclass, field

from worldgym.agents.common.schedules import Linear
from worldgym.agents.drqv2 import DrQv2Config
from worldgym.agents.mbpo import MBPOConfig
from worldgym.config import CompactTokenizerConfig, Sampling, TransformerConfig, WorldModelConfig
from worldgym.errors import ConfigError, nearest
from worldgym.training.online import OnlineConfig

FRAME_STACK = 3


@dataclass(frozen=True)
class Preset:
    """All settings of a run."""

    loop: MBPOConfig
    """Settings of MBPO; a run without a world model uses those of the agent alone."""
    agent: DrQv2Config = field(default_factory=DrQv2Config)
    """Settings of DrQ-v2."""
    demonstrations: int = 0
    """Episodes of the scripted expert in the replay before the first step."""
    world_model: WorldModelConfig | None = None
    """Architecture of a world model from scratch. None: the shipped checkpoint's."""


# Table 5 of the paper. It counts simulator steps, of which an agent's step here has two: its intervals are halved.
PAPER = Preset(
    MBPOConfig(
        seed_steps=2000,
        tokenizer_every=20,
        transformer_every=5,
        rollout_every=100,
        model=OnlineConfig(warmup_updates=0, label_width=0.0, noise_width=0.0, dropout=0.1, reward_weight=1.0),
        evaluate_every=1000,
        evaluation_episodes=20,
        log_every=100,
        save_every=5000,
    ),
    demonstrations=5,
)

METAWORLD = {
    "button-press-topdown-wall": PAPER,
    "plate-slide": PAPER,
    "hammer": PAPER,
    "door-lock": dataclasses.replace(PAPER, demonstrations=0),
    "handle-pull-side": PAPER,
    "coffee-push": PAPER,
}

# How the shipped checkpoint was trained, and is best trained further.
COMPACT = OnlineConfig(warmup_updates=20, label_width=0.07, noise_width=0.05, dropout=0.0, reward_weight=0.03)

# About 10 minutes on one core, 13 and more with the world model. Returns are some thousands, so rewards are scaled for
# the critics. The world model is already trained and gets few updates. It predicts too high rewards in states that it
# was not trained on, and an agent finds them: so the reward head is refitted with every episode, rollouts are short,
# rollouts of an older head are removed, and the share of real steps grows with the replay.
CPU_LOOP = dataclasses.replace(
    PAPER.loop,
    steps=2000,
    seed_steps=250,
    updates_per_step=4,
    warmup_model_updates=0,
    tokenizer_every=250,
    transformer_every=25,
    reward_head_every=100,
    warmup_rollouts=512,
    rollout_every=25,
    rollouts=64,
    horizon=5,
    known_frames=4,
    keep_rollouts=20,
    real_ratio=Linear(0.5, 1.0, 1500),
    model=COMPACT,
    evaluate_every=250,
    evaluation_episodes=8,
    save_every=500,
)
CPU_AGENT = DrQv2Config(channels=16, hidden=256, batch_size=64, learning_rate=3e-4, stddev_steps=2000)
LARGEST_REWARD = 30.0  # of a usual step in Meta-World
SCALED_REWARD = 0.6  # the largest usual reward of a step, after scaling

TOY_TOKENIZER = CompactTokenizerConfig(
    resolution=32,
    width=16,
    depth=1,
    context_grid=4,
    frame_grid=4,
    latent_channels=8,
    context_codes=128,
    dynamics_codes=128,
)
TOY_MODEL = WorldModelConfig(
    TOY_TOKENIZER,
    TransformerConfig(
        layers=2,
        heads=4,
        key_value_heads=1,
        hidden_size=64,
        mlp_size=128,
        max_positions=300,
        cumulative_actions=True,
        place_embeddings=True,
    ),
    action_dim=2,
    reward=True,
    reward_transform="identity",
    tasks=("toy",),
)

# Without a world model it solves most episodes after 1,500 steps, in half a minute. With one learning rate for actor
# and critics, as published, the actor runs into a corner before the critics are trained. Networks this narrow are
# faster in float32, also where the processor multiplies bfloat16.
TOY = Preset(
    MBPOConfig(
        steps=1500,
        seed_steps=250,
        updates_per_step=1,
        warmup_model_updates=300,
        tokenizer_every=10,
        transformer_every=5,
        warmup_rollouts=128,
        rollout_every=50,
        keep_rollouts=20,
        precision="float32",
        model=dataclasses.replace(COMPACT, learning_rate=3e-3, reward_weight=5.0, precision="float32"),
        log_every=50,
        evaluate_every=250,
        evaluation_episodes=20,
        save_every=500,
    ),
    DrQv2Config(
        channels=16,
        hidden=128,
        batch_size=64,
        learning_rate=1e-3,
        actor_learning_rate=1e-4,
        discount=0.97,
        pad=2,
        stddev_steps=1500,
        precision="float32",
    ),
    world_model=TOY_MODEL,
)

DIALS_MODEL = dataclasses.replace(
    TOY_MODEL,
    tokenizer=dataclasses.replace(TOY_TOKENIZER, width=8),
    action_dim=8,
    tasks=("dials",),
    sampling=Sampling(0.3),
)

# Twelve updates a step are more than real steps alone are good for. 300 random steps are enough to learn how a bar
# moves, and to train the agent in imagination. A reward head on codes does not learn these rewards
# (docs/experiments.md), so they are predicted from pixels.
DIALS = Preset(
    dataclasses.replace(
        TOY.loop,
        seed_steps=300,
        updates_per_step=12,
        warmup_model_updates=400,
        tokenizer_every=25,
        transformer_every=2,
        pixel_reward_updates=3,
        warmup_rollouts=640,
        warmup_agent_updates=1800,
        rollout_every=10,
        rollouts=64,
        horizon=5,
        keep_rollouts=25,
        real_ratio=Linear(0.2, 0.2, 1),
        model=dataclasses.replace(TOY.loop.model, reward_weight=20.0),
        evaluate_every=50,
    ),
    TOY.agent,
    world_model=DIALS_MODEL,
)

CLONE_UPDATES = 2000

TOYS = {"toy": TOY, "dials": DIALS}
"""Presets by the toy worlds' tasks."""


def with_cloning(preset: Preset) -> Preset:
    """Settings for an agent that begins as a clone of the demonstrations: no random steps, little noise."""
    return dataclasses.replace(
        preset,
        loop=dataclasses.replace(preset.loop, seed_steps=0, warmup_clone_updates=CLONE_UPDATES),
        agent=dataclasses.replace(preset.agent, clone_weight=1.0, stddev_start=0.2),
        demonstrations=max(preset.demonstrations, 5),
    )


def preset(task: str, name: str | None = None, cloning: bool = False, largest_reward: float = LARGEST_REWARD) -> Preset:
    """The preset for a task.

    Args:
        task: of the environment.
        name: ``paper``, ``cpu``, ``toy`` or ``dials``; a toy world's own, else ``paper``, unless given.
        cloning: begin with behaviour cloning of the demonstrations, at least 5 of them.
        largest_reward: of a usual step of the task's simulator; the preset ``cpu`` scales rewards by it.

    Raises:
        ConfigError: for another name.
    """
    metaworld = METAWORLD.get(task.removesuffix("-v3"), PAPER)
    cpu_agent = dataclasses.replace(CPU_AGENT, reward_scale=SCALED_REWARD / largest_reward)
    known = {"paper": metaworld, "cpu": dataclasses.replace(metaworld, loop=CPU_LOOP, agent=cpu_agent), **TOYS}
    name = name or (task if task in TOYS else "paper")
    if name not in known:
        raise ConfigError(f"unknown preset {name!r}; {nearest(name, known)}")
    if cloning:
        known[name] = with_cloning(known[name])
    # A world model from scratch needs the task's actions and resolution, whichever preset the other settings come from.
    return dataclasses.replace(known[name], world_model=TOYS[task].world_model if task in TOYS else None)
