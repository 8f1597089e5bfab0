import dataclasses

import pytest

from worldgym.agents.drqv2 import DrQv2Config
from worldgym.agents.mbpo import MBPOConfig
from worldgym.agents.presets import DIALS, DIALS_MODEL, METAWORLD, TOY, changed, preset
from worldgym.envs.simulators.metaworld import PAPER_TASKS
from worldgym.errors import ConfigError


def test_the_defaults_are_table_5_of_the_paper() -> None:
    config, agent = MBPOConfig(), DrQv2Config()
    assert (config.initial_rollouts, config.rollout_every, config.rollouts, config.horizon) == (640, 200, 32, 10)
    assert (config.initial_model_updates, config.tokenizer_every, config.transformer_every) == (1000, 40, 10)
    assert (config.model_batch_size, config.segment_length, config.model.future_frames) == (16, 12, 5)
    assert config.model.learning_rate == 1e-4
    assert config.real_ratio(0) == config.real_ratio(10**6) == 0.5
    assert (config.seed_steps, config.updates_per_step, config.update_every) == (4000, 2, 1)
    assert (agent.batch_size, agent.n_step, agent.learning_rate, agent.hidden) == (256, 3, 1e-4, 1024)


def test_each_task_of_the_paper_has_a_preset_in_agent_steps() -> None:
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


def test_settings_change_by_name() -> None:
    found = changed(TOY, {"rollouts": 8, "uncertainty": 2, "model.learning_rate": 3e-4, "agent.batch_size": 16})
    assert found.loop == dataclasses.replace(
        TOY.loop, rollouts=8, uncertainty=2.0, model=dataclasses.replace(TOY.loop.model, learning_rate=3e-4)
    )
    assert found.agent == dataclasses.replace(TOY.agent, batch_size=16)
    assert changed(TOY, {"real_ratio.end": 0.75}).loop.real_ratio(10) == 0.75
    assert changed(TOY, {}) == TOY


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("rollout", 8, "there is no setting 'rollout'; did you mean .*'rollouts'"),
        ("agent.batchsize", 8, "did you mean 'agent.batch_size'"),
        ("model.rate", 1.0, "there is no setting 'model.rate'"),
        ("rollouts.x", 1, "there is no setting 'rollouts.x'"),
        ("rollouts", "many", "rollouts: expected int, got 'many'"),
        ("rollouts", -1, "rollouts must be above 0"),
        ("agent.tau", 2.0, "tau must be in"),
    ],
)
def test_settings_that_make_no_sense_are_named(name: str, value: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        changed(TOY, {name: value})
