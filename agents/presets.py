"""Settings that belong together: the paper's for its six Meta-World tasks, small ones for a CPU, the toy worlds'."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from worldgym.agents.drqv2 import DrQv2Config
from worldgym.agents.mbpo import MBPOConfig
from worldgym.agents.common.schedules import Linear
from worldgym.config import CompactTokenizerConfig, Sampling, TransformerConfig, WorldModelConfig, from_dict
from worldgym.errors import ConfigError, nearest
from worldgym.training.online import OnlineConfig

FRAME_STACK = 3


@dataclass(frozen=True)
class Preset:
    """All settings of a run.

    Attributes:
        loop: of :class:`MBPO`, which model-free runs share.
        agent: of DrQ-v2.
        demonstrations: episodes of the scripted expert in the replay before the first step.
        world_model: what a world model from scratch is built like; None is as the shipped checkpoint.
    """

    loop: MBPOConfig
    agent: DrQv2Config = field(default_factory=DrQv2Config)
    demonstrations: int = 0
    world_model: WorldModelConfig | None = None


# The paper counts simulator steps, and an agent's step here is two of them: its intervals are halved.
PAPER = Preset(
    MBPOConfig(
        seed_steps=2000,
        tokenizer_every=20,
        transformer_every=5,
        rollout_every=100,
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

# Some 10 minutes on one core, 13 and more with the world model. What it changes beside sizes: returns here are some
# thousands, so rewards are scaled for the critics. A trained world model is touched little, but it promises rewards in
# places that it does not know and an agent finds them: its reward head is solved for anew with every episode, rollouts
# are short, those of an older head are forgotten, and the more there is of the real world the more of it a batch holds.
CPU_LOOP = dataclasses.replace(
    PAPER.loop,
    steps=2000,
    seed_steps=250,
    updates_per_step=4,
    initial_model_updates=0,
    tokenizer_every=250,
    transformer_every=25,
    rewards_every=100,
    initial_rollouts=512,
    rollout_every=25,
    rollouts=64,
    horizon=5,
    keep_rollouts=20,
    real_ratio=Linear(0.5, 1.0, 1500),
    evaluate_every=250,
    evaluation_episodes=8,
    save_every=500,
)
CPU_AGENT = DrQv2Config(
    channels=16, hidden=256, batch_size=64, learning_rate=3e-4, reward_scale=0.02, stddev_steps=2000
)

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

# Model-free it solves most episodes after 1,500 steps, in half a minute. With one rate for all, as published, the actor
# runs into a corner before the critics know better. Networks this narrow are faster in float32, also where the
# processor multiplies bfloat16.
TOY = Preset(
    MBPOConfig(
        steps=1500,
        seed_steps=250,
        updates_per_step=1,
        initial_model_updates=300,
        tokenizer_every=10,
        transformer_every=5,
        initial_rollouts=128,
        rollout_every=50,
        keep_rollouts=20,
        precision="float32",
        model=OnlineConfig(learning_rate=3e-3, reward_weight=5.0, precision="float32"),
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

# Twelve updates a step are more than real steps alone are good for. How a bar moves is learned from 300 random steps,
# and enough to practise on; what it earns there no head of codes learns (docs/experiments.md), so rewards are read off
# frames.
DIALS = Preset(
    dataclasses.replace(
        TOY.loop,
        seed_steps=300,
        updates_per_step=12,
        initial_model_updates=400,
        tokenizer_every=25,
        transformer_every=2,
        reader_updates=3,
        initial_rollouts=640,
        initial_updates=1800,
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

TOYS = {"toy": TOY, "dials": DIALS}
"""Presets by the toy worlds' tasks."""


def preset(task: str, name: str | None = None) -> Preset:
    """The preset ``paper``, ``cpu``, ``toy`` or ``dials`` for a task; without a name a toy world's own, ``paper`` else.

    Raises:
        ConfigError: for another name.
    """
    metaworld = METAWORLD.get(task.removesuffix("-v3"), PAPER)
    known = {"paper": metaworld, "cpu": dataclasses.replace(metaworld, loop=CPU_LOOP, agent=CPU_AGENT), **TOYS}
    name = name or (task if task in TOYS else "paper")
    if name not in known:
        raise ConfigError(f"unknown preset {name!r}; {nearest(name, known)}")
    # A world model from scratch has the task's actions and resolution, whatever the other settings are called.
    return dataclasses.replace(known[name], world_model=TOYS[task].world_model if task in TOYS else None)


def changed(found: Preset, settings: Mapping[str, Any]) -> Preset:
    """The preset with other settings: ``rollouts`` of the loop, ``model.learning_rate``, ``agent.batch_size``.

    Raises:
        ConfigError: for a setting that there is not, or a value of another type.
    """
    values = {"loop": dataclasses.asdict(found.loop), "agent": dataclasses.asdict(found.agent)}
    for path, value in settings.items():
        names = path.split(".") if path.startswith("agent.") else ["loop", *path.split(".")]
        place: Any = values
        for name in names[:-1]:
            place = place.get(name) if isinstance(place, dict) else None
        if not isinstance(place, dict) or names[-1] not in place:
            known = [*values["loop"], *(f"agent.{name}" for name in values["agent"])]
            raise ConfigError(f"there is no setting {path!r}; {nearest(path, known)}")
        place[names[-1]] = value
    loop, agent = from_dict(MBPOConfig, values["loop"], "settings"), from_dict(DrQv2Config, values["agent"], "agent")
    return dataclasses.replace(found, loop=loop, agent=agent)
