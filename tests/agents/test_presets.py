"""Presets: the values of the paper, and how presets are chosen."""

import dataclasses

import pytest

from worldgym.agents.mbpo import MBPOConfig
from worldgym.agents.presets import DIALS, DIALS_MODEL, METAWORLD, PAPER, TOY, preset
from worldgym.envs.simulators.metaworld import PAPER_TASKS
from worldgym.errors import ConfigError

TABLE_5 = {
    "steps": 100_000,
    "seed": 0,
    "seed_steps": 4000 // 2,
    "updates_per_step": 2,
    "update_every": 1,
    "warmup_clone_updates": 0,
    "warmup_model_updates": 1000,
    "warmup_rollouts": 640,
    "warmup_critic_updates": 0,
    "warmup_agent_updates": 0,
    "tokenizer_every": 40 // 2,
    "transformer_every": 10 // 2,
    "reward_head_every": None,
    "pixel_reward_updates": 0,
    "model_batch_size": 16,
    "segment_length": 12,
    "rollout_every": 200 // 2,
    "rollouts": 32,
    "horizon": 10,
    "known_frames": 0,
    "max_uncertainty": None,
    "pessimism": 0.0,
    "keep_rollouts": 100,
    "real_ratio": {"start": 0.5, "end": 0.5, "steps": 1},
    "capacity_bytes": 4 * 2**30,
    "precision": "auto",
    "model": {
        "learning_rate": 1e-4,
        "warmup_updates": 0,
        "clip_norm": 1.0,
        "future_frames": 5,
        "label_width": 0.0,
        "noise_width": 0.0,
        "dropout": 0.1,
        "reward_weight": 1.0,
        "event_weight": 0.1,
        "precision": "auto",
    },
    "log_every": 100,
    "evaluate_every": 1000,
    "evaluation_episodes": 20,
    "save_every": 5000,
}
"""Settings of the loop. The table counts simulator steps, of which an environment step here has two."""

TABLE_5_AGENT = {
    "channels": 32,
    "features": 50,
    "hidden": 1024,
    "learning_rate": 1e-4,
    "actor_learning_rate": None,
    "tau": 0.01,
    "batch_size": 256,
    "n_step": 3,
    "discount": 0.99,
    "stddev_start": 1.0,
    "stddev_end": 0.1,
    "stddev_steps": 100_000,
    "stddev_clip": 0.3,
    "reward_scale": 1.0,
    "clone_weight": 0.0,
    "train_encoder": True,
    "pad": 4,
    "precision": "auto",
}


def test_paper_preset_is_table_5() -> None:
    """Every field of every configuration, so that no default can replace a value of the table."""
    assert dataclasses.asdict(PAPER.loop) == TABLE_5
    assert dataclasses.asdict(PAPER.agent) == TABLE_5_AGENT
    assert (PAPER.demonstrations, PAPER.world_model) == (5, None)
    for task in METAWORLD:
        assert dataclasses.replace(METAWORLD[task], demonstrations=5) == PAPER


def test_presets_that_continue_the_shipped_checkpoint_train_it_as_it_was_trained() -> None:
    model = preset("hammer", "cpu").loop.model
    assert (model.label_width, model.noise_width, model.dropout, model.reward_weight) == (0.07, 0.05, 0.0, 0.03)


def test_each_task_of_the_paper_has_a_preset() -> None:
    assert set(METAWORLD) == set(PAPER_TASKS)
    for task in PAPER_TASKS:
        found = preset(task)
        assert found == METAWORLD[task] == preset(f"{task}-v3")
        assert found.demonstrations == (0 if task == "door-lock" else 5)
        loop, table = found.loop, MBPOConfig()
        for name in ("seed_steps", "rollout_every", "tokenizer_every", "transformer_every"):
            assert 2 * getattr(loop, name) == getattr(table, name)  # two simulator steps are one of the agent's


def test_presets_by_name() -> None:
    assert preset("toy") == TOY
    assert preset("dials") == DIALS
    assert preset("dials", "toy") == dataclasses.replace(TOY, world_model=DIALS_MODEL)  # its actions are the task's
    assert preset("hammer", "toy").world_model is None
    assert preset("basketball") == preset("hammer")
    small, large = preset("hammer", "cpu"), preset("hammer", "paper")
    assert small.demonstrations == 5
    assert small.loop.steps < large.loop.steps
    assert small.agent.batch_size < large.agent.batch_size
    with pytest.raises(ConfigError, match="unknown preset 'cpus'; did you mean 'cpu'"):
        preset("hammer", "cpus")
