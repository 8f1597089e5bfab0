import dataclasses

import pytest

from worldgym.agents.mbpo import MBPOConfig
from worldgym.agents.presets import DIALS, DIALS_MODEL, METAWORLD, PAPER, TOY, preset
from worldgym.envs.simulators.metaworld import PAPER_TASKS
from worldgym.errors import ConfigError


def test_paper_preset_is_table_5() -> None:
    """Every entry of the table; environment steps are halved, because a step here is two of the simulator's."""
    loop, agent, model = PAPER.loop, PAPER.agent, PAPER.loop.model
    assert (loop.steps, loop.seed_steps, loop.updates_per_step, loop.update_every) == (100_000, 4000 // 2, 2, 1)
    assert (loop.warmup_rollouts, loop.rollout_every, loop.rollouts, loop.horizon) == (640, 200 // 2, 32, 10)
    assert (loop.warmup_model_updates, loop.tokenizer_every, loop.transformer_every) == (1000, 40 // 2, 10 // 2)
    assert (loop.model_batch_size, loop.segment_length, model.future_frames) == (16, 12, 5)
    assert loop.real_ratio(0) == loop.real_ratio(10**6) == 0.5
    assert (loop.reward_head_every, loop.pixel_reward_updates, loop.warmup_agent_updates) == (None, 0, 0)
    assert loop.max_uncertainty is None
    assert (model.learning_rate, model.warmup_updates) == (1e-4, 0)
    assert (model.label_width, model.noise_width, model.dropout, model.reward_weight) == (0.0, 0.0, 0.1, 1.0)
    assert (agent.batch_size, agent.n_step, agent.learning_rate, agent.actor_learning_rate) == (256, 3, 1e-4, None)
    assert (agent.features, agent.hidden, agent.tau, agent.stddev_clip, agent.discount) == (50, 1024, 0.01, 0.3, 0.99)
    assert (agent.channels, agent.reward_scale, agent.pad) == (32, 1.0, 4)
    assert PAPER.demonstrations == 5
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
