"""The vector environment against Gymnasium's own SyncVectorEnv around single environments: nothing may differ."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from worldgym.data.start_states import StartStates
from worldgym.envs.contract import Frame
from worldgym.envs.learned.vector_env import WorldModelVectorEnv
from worldgym.errors import EnvironmentClosed, InvalidAction, InvalidFrames, InvalidOption, ResetNeeded
from worldgym.pretrained import START_STATES

ID = "WorldModel-MetaWorld-v0"
SLOTS = 3
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]
Envs = gym.vector.VectorEnv[Any, Any, Any]


def make(checkpoint: Path, **arguments: Any) -> Envs:
    return gym.make_vec(ID, num_envs=SLOTS, checkpoint=checkpoint, **arguments)


def reference(checkpoint: Path, mode: AutoresetMode, **arguments: Any) -> Envs:
    """The same from single environments, one after the other."""
    return gym.make_vec(
        ID,
        num_envs=SLOTS,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        checkpoint=checkpoint,
        **arguments,
    )


def assert_alike(one: Any, two: Any) -> None:
    """Equal, but for the last bits of floats, which depend on the batch size."""
    assert type(one) is type(two)
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_alike(one[key], two[key])
    elif isinstance(one, tuple):
        for a, b in zip(one, two, strict=True):
            assert_alike(a, b)
    else:
        assert one.dtype == two.dtype
        assert one.shape == two.shape
        if one.dtype == object:
            for a, b in zip(one, two, strict=True):
                if isinstance(a, np.ndarray):
                    assert_alike(a, b)
                else:
                    assert a == b
        elif one.dtype == np.uint8:
            np.testing.assert_allclose(one.astype(int), two.astype(int), atol=1)
        else:
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def actions(steps: int, slots: int = SLOTS) -> list[np.ndarray]:
    return list(np.random.default_rng(0).uniform(-1, 1, (steps, slots, 4)).astype(np.float32))


@pytest.mark.parametrize("mode", MODES)
def test_equal_to_single_environments_over_episodes(tiny_checkpoint: Path, mode: AutoresetMode) -> None:
    batched = make(tiny_checkpoint, autoreset_mode=mode, max_episode_steps=5)
    single = reference(tiny_checkpoint, mode, max_episode_steps=5)
    assert isinstance(batched, WorldModelVectorEnv)
    assert batched.metadata["autoreset_mode"] is mode is single.metadata["autoreset_mode"]
    for name in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
        assert getattr(batched, name) == getattr(single, name)
    assert_alike(batched.reset(seed=7), single.reset(seed=7))
    assert batched.np_random_seed == single.np_random_seed == (7, 8, 9)
    truncated = 0
    for action in actions(19):
        ours = batched.step(action)
        assert_alike(ours, single.step(action))
        truncated += ours[3].all()
    assert truncated == 3
    assert_alike(batched.reset(seed=[5, 5, 6]), single.reset(seed=[5, 5, 6]))
    assert_alike(batched.step(action), single.step(action))
    assert_alike(batched.reset(options={"start": 2}), single.reset(options={"start": 2}))


@pytest.mark.parametrize("mode", [*MODES, AutoresetMode.DISABLED])
def test_slots_that_end_at_different_times(tiny_checkpoint: Path, mode: AutoresetMode) -> None:
    batched = make(tiny_checkpoint, autoreset_mode=mode, max_episode_steps=6)
    single = reference(tiny_checkpoint, mode, max_episode_steps=6)
    assert_alike(batched.reset(seed=0), single.reset(seed=0))
    ended = np.zeros(SLOTS, np.bool_)
    for step, action in enumerate(actions(20)):
        if mode is AutoresetMode.DISABLED and ended.any():
            assert_alike(*(envs.reset(options={"reset_mask": ended}) for envs in (batched, single)))
        if step in (1, 3):  # puts the slots out of step
            mask = np.arange(SLOTS) == step // 2
            assert_alike(*(envs.reset(seed=40 + step, options={"reset_mask": mask}) for envs in (batched, single)))
        ours = batched.step(action)
        assert_alike(ours, single.step(action))
        ended = ours[3]


def test_a_slot_is_untouched_by_what_happens_in_others(tiny_checkpoint: Path) -> None:
    envs = make(tiny_checkpoint, max_episode_steps=-1)
    alone = gym.make(ID, checkpoint=tiny_checkpoint)
    envs.reset(seed=10)
    frame, _ = alone.reset(seed=11)
    for step, action in enumerate(actions(10)):
        if step % 3 == 2:
            envs.reset(options={"reset_mask": np.array([True, False, True])})
        frames, rewards, _, _, infos = envs.step(action)
        frame, reward, _, _, info = alone.step(action[1])
        np.testing.assert_allclose(frames[1].astype(int), frame.astype(int), atol=1)
        np.testing.assert_allclose(rewards[1], reward, rtol=1e-4, atol=1e-5)
        assert infos["reanchored"][1] == info["reanchored"]
    assert not np.array_equal(frames[0], frames[1])


def test_in_its_reset_step_a_slot_ignores_its_action(tiny_checkpoint: Path) -> None:
    envs = make(tiny_checkpoint, max_episode_steps=2, starts="anywhere")
    envs.reset(seed=0)
    for action in actions(2):
        truncations = envs.step(action)[3]
    assert truncations.all()
    frames, rewards, terminations, truncations, infos = envs.step(np.full((SLOTS, 4), np.nan, np.float32))
    assert not rewards.any()
    assert not terminations.any()
    assert not truncations.any()
    bank = StartStates(tiny_checkpoint / START_STATES)
    for frame, task, start in zip(frames, infos["task"], infos["start"], strict=True):
        np.testing.assert_array_equal(frame, bank.get(task, start, 2).frames[-1])


def test_one_model_step_for_all_slots(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    envs = make(tiny_checkpoint, max_episode_steps=3)
    model, batches, encoded = envs.world_model, [], []
    step, start = model.step, model.start
    monkeypatch.setattr(
        model, "step", lambda state, *rest, **named: batches.append(len(state)) or step(state, *rest, **named)
    )
    monkeypatch.setattr(model, "start", lambda frames: encoded.append(len(frames)) or start(frames))
    envs.reset(seed=0)
    envs.step(actions(1)[0])
    envs.reset(options={"reset_mask": np.array([False, True, False])})
    for action in actions(3):
        envs.step(action)
    assert batches == [3, 3, 3, 3]
    assert encoded == [3, 1, 2]


def test_returned_arrays_are_the_callers_own(tiny_checkpoint: Path) -> None:
    envs = make(tiny_checkpoint, render_mode="rgb_array", autoreset_mode="SameStep", max_episode_steps=1)
    frames, _ = envs.reset(seed=0)
    before = frames.copy()
    frames[:] = 0
    np.testing.assert_array_equal(np.stack(envs.render()), before)
    _, _, _, truncations, infos = envs.step(actions(1)[0])
    kept = [frame.copy() for frame in infos["final_obs"]]
    truncations[:] = False
    envs.step(actions(1)[0])
    np.testing.assert_array_equal(np.stack(kept), np.stack(infos["final_obs"]))


def test_no_limit_without_max_episode_steps(tiny_checkpoint: Path) -> None:
    envs = WorldModelVectorEnv(2, checkpoint=tiny_checkpoint)
    envs.reset(seed=0)
    assert not any(envs.step(action)[3].any() for action in actions(9, slots=2))


def test_given_frames(tiny_checkpoint: Path, real_frames: Frame) -> None:
    envs = make(tiny_checkpoint, task="hammer")
    frames, infos = envs.reset(seed=0, options={"frames": real_frames})
    np.testing.assert_array_equal(frames, np.stack([real_frames[-1]] * SLOTS))
    assert infos["start"].tolist() == [-1] * SLOTS
    each = np.stack([real_frames, real_frames[::-1], real_frames // 2])
    frames, _ = envs.reset(seed=0, options={"frames": each})
    np.testing.assert_array_equal(frames, each[:, -1])
    with pytest.raises(InvalidFrames, match=r"\(2, 64, 64, 3\)"):
        envs.reset(options={"frames": each[:2]})
    with pytest.raises(InvalidOption, match=r"'actions': expected those of each of 3 slots.*\(2, 1, 4\)"):
        envs.reset(options={"frames": np.concatenate([each, each[:, -1:]], axis=1), "actions": np.zeros((2, 1, 4))})


def test_a_checkpoint_without_start_states_is_told_where_a_slot_would_reset_itself(
    tiny_checkpoint: Path, real_frames: Frame
) -> None:
    from worldgym import WorldModel

    envs = make(WorldModel.from_pretrained(tiny_checkpoint), max_episode_steps=1)
    envs.reset(seed=0, options={"frames": real_frames})
    envs.step(actions(1)[0])
    with pytest.raises(InvalidOption, match="no start states"):
        envs.step(actions(1)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"autoreset_mode": "SomeStep"}, "'SomeStep'; did you mean 'SameStep'"),
        ({"max_episode_steps": 0}, "at least 1"),
        ({"max_episode_steps": "ten"}, "at least 1, or -1 for no limit, got 'ten'"),
        ({"num_envs": 0}, "num_envs: expected at least 1"),
        ({"render_mode": "ansi"}, "'ansi'"),
    ],
)
def test_bad_arguments(tiny_checkpoint: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        WorldModelVectorEnv(**{"checkpoint": tiny_checkpoint, **arguments})


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([True, False, False], "bool array"),
        (np.array([1, 0, 0]), "bool array"),
        (np.array([True]), r"\(3,\)"),
        (np.zeros(3, bool), "True in it"),
    ],
)
def test_bad_masks(tiny_checkpoint: Path, mask: Any, message: str) -> None:
    envs = make(tiny_checkpoint)
    envs.reset(seed=0)
    with pytest.raises(InvalidOption, match=message):
        envs.reset(options={"reset_mask": mask})


def test_bad_seeds_and_options(tiny_checkpoint: Path) -> None:
    envs = make(tiny_checkpoint)
    with pytest.raises(InvalidOption, match="expected 3 seeds"):
        envs.reset(seed=[1, 2])
    with pytest.raises(InvalidOption, match="unknown reset option 'stat'"):
        envs.reset(options={"stat": 1})


def test_bad_actions_name_the_slot(tiny_checkpoint: Path) -> None:
    envs = make(tiny_checkpoint)
    envs.reset(seed=0)
    broken = np.zeros((SLOTS, 4), np.float32)
    broken[2, 1] = np.nan
    with pytest.raises(InvalidAction, match=r"finite.*nan.*slot 2"):
        envs.step(broken)
    with pytest.raises(InvalidAction, match=r"shape \(3, 4\).*got shape \(4,\)"):
        envs.step(np.zeros(4, np.float32))


def test_order_of_calls(tiny_checkpoint: Path) -> None:
    envs = make(tiny_checkpoint, autoreset_mode="Disabled", max_episode_steps=1)
    with pytest.raises(ResetNeeded, match=r"called before reset\(\)"):
        envs.step(actions(1)[0])
    with pytest.raises(ResetNeeded, match=r"called before reset\(\)"):
        envs.render()
    with pytest.raises(ResetNeeded, match="never reset"):
        envs.reset(options={"reset_mask": np.array([True, False, False])})
    envs.reset(seed=0)
    envs.step(actions(1)[0])
    with pytest.raises(ResetNeeded, match=r"slots \[0, 1, 2\] have ended"):
        envs.step(actions(1)[0])
    envs.reset()
    envs.close()
    envs.close()
    for call in (envs.reset, envs.render, lambda: envs.step(actions(1)[0])):
        with pytest.raises(EnvironmentClosed, match="make a new environment"):
            call()


@pytest.mark.parametrize("autoreset_mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_infos_keep_their_types_whichever_slots_reset(output: str, autoreset_mode: str, tiny_checkpoint: Path) -> None:
    envs = make(tiny_checkpoint, max_episode_steps=2, output=output, autoreset_mode=autoreset_mode)
    infos = [envs.reset(seed=0)[1], *(envs.step(action)[4] for action in actions(6))]
    infos.append(envs.reset(options={"reset_mask": np.array([True, False, True])})[1])
    kind = torch.Tensor if output == "torch" else np.ndarray
    for info in infos:
        assert info.keys() >= {"task", "start", "uncertainty", "reanchored", "_uncertainty"}
        for part in (info, info.get("final_info", info)):
            assert all(isinstance(part[name], kind) for name in ("uncertainty", "reanchored"))
            assert part["start"].dtype == np.int64
    assert infos[-1]["_start"].tolist() == [True, False, True]
