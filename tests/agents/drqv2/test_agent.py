"""DrQ-v2 against the published agent, by hand and by learning a small task."""

import dataclasses
import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from worldgym.agents.common.transitions import Transitions
from worldgym.agents.drqv2 import DrQv2, DrQv2Config
from worldgym.agents.drqv2.agent import within_bounds
from worldgym.agents.drqv2.augmentation import random_shift, shift_by_gather, shift_by_slices
from worldgym.agents.drqv2.networks import Actor, Encoder
from worldgym.errors import CheckpointError, ConfigError, InvalidFrames, StorageError, TrainingError

TINY = DrQv2Config(channels=4, features=6, hidden=16, precision="float32")


def tiny(seed: int = 0, **changes: Any) -> DrQv2:
    """An agent for three frames of 16 pixels and two actions."""
    return DrQv2((16, 16, 3), 3, 2, dataclasses.replace(TINY, **changes), seed)


def draw(
    seed: int, rows: int = 8, frame_shape: tuple[int, ...] = (16, 16, 3), frame_stack: int = 3, action_dim: int = 2
) -> Transitions:
    """A batch of noise."""
    generator = torch.Generator().manual_seed(seed)
    frames, next_frames = torch.randint(
        256, (2, rows, frame_stack, *frame_shape), generator=generator, dtype=torch.uint8
    )
    actions = torch.rand(rows, action_dim, generator=generator) * 2 - 1
    rewards = torch.randn(rows, generator=generator)
    return Transitions(frames, actions, rewards, torch.full((rows,), 0.97), next_frames)


def weights(agent: DrQv2) -> dict[str, Tensor]:
    """A copy of all the agent is."""
    return {name: value.clone() for name, value in agent.state_dict().items()}


def assert_equal(first: DrQv2, second: DrQv2) -> None:
    mine, others = first.state_dict(), second.state_dict()
    assert mine.keys() == others.keys()
    assert [name for name in mine if not torch.equal(mine[name], others[name])] == []


def set_to_constant(network: torch.nn.Module, value: float) -> None:
    """Whatever a perceptron reads, it says ``value``."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
        list(network.parameters())[-1].fill_(value)


@pytest.mark.parametrize("frame_shape", [(32, 32, 3), (64, 64, 3), (84, 84, 3), (15, 20, 3)])
@pytest.mark.parametrize(("frame_stack", "action_dim"), [(3, 4), (1, 1)])
def test_any_frame_size_and_action_dim(frame_shape: tuple[int, ...], frame_stack: int, action_dim: int) -> None:
    agent = DrQv2(frame_shape, frame_stack, action_dim, TINY)
    batch = draw(0, 3, frame_shape, frame_stack, action_dim)
    metrics = agent.update(batch)
    assert set(metrics) == {"critic_loss", "actor_loss", "q", "target_q", "reward", "stddev"}
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["reward"] == pytest.approx(batch.rewards.mean().item())
    actions = agent.act(batch.frames)
    assert actions.shape == (3, action_dim)
    assert actions.dtype == np.float32
    assert agent.act(batch.frames[0].numpy()).shape == (action_dim,)
    assert np.allclose(agent.act(batch.frames[1], explore=False), agent.act(batch.frames, explore=False)[1], atol=1e-5)


def test_encoder_equals_the_published_one() -> None:
    """Two-dimensional convolutions over 3 S channels of frames / 255 - 0.5; 39,200 features of 84 pixels."""
    frames = draw(0, 2, (84, 84, 3)).frames
    encoder = Encoder((84, 84, 3), 3, 32)
    maps = frames.permute(0, 4, 1, 2, 3).flatten(1, 2) / 255 - 0.5
    for layer in (encoder.first, *encoder.rest):
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Conv3d)):
            kernel = layer.weight.flatten(1, 2) if layer.weight.ndim == 5 else layer.weight
            maps = F.relu(F.conv2d(maps, kernel, layer.bias, stride=layer.stride[-1]))
    assert encoder.dim == 32 * 35 * 35
    assert torch.allclose(encoder(frames), maps.permute(0, 2, 3, 1).flatten(1), atol=1e-5)


def test_weights_start_orthogonal() -> None:
    agent = tiny()
    for name, weight in agent.state_dict().items():
        if name.startswith(("adam", "target")) or weight.ndim < 2:
            continue
        matrix = weight.flatten(1)
        matrix = matrix if len(matrix) < matrix.shape[1] else matrix.T
        gain = 2 if weight.ndim > 2 else 1
        assert torch.allclose(matrix @ matrix.T, gain * torch.eye(len(matrix)), atol=1e-5), name
    assert all(not value.any() for name, value in agent.state_dict().items() if name.endswith("bias"))
    assert all(torch.equal(a, b) for a, b in zip(agent.critic.parameters(), agent.target.parameters(), strict=True))


def test_published_defaults() -> None:
    config = DrQv2Config()
    agent = DrQv2((64, 64, 3), 3, 4)
    assert (config.features, config.hidden, config.learning_rate, config.tau) == (50, 1024, 1e-4, 0.01)
    assert (config.batch_size, config.n_step, config.discount, config.stddev_clip) == (256, 3, 0.99, 0.3)
    assert sum(weight.numel() for weight in agent.encoder.parameters()) == 32 * 81 + 3 * 32 * 288 + 4 * 32
    trunk = 32 * 25 * 25 * 50 + 50 + 100
    assert sum(weight.numel() for weight in agent.actor.parameters()) == trunk + 51 * 1024 + 1025 * 1024 + 1025 * 4
    assert sum(weight.numel() for weight in agent.critic.parameters()) == trunk + 2 * (55 * 1024 + 1025 * 1024 + 1025)


def slowly_shifted(frames: np.ndarray[Any, Any], shifts: list[list[int]], pad: int) -> np.ndarray[Any, Any]:
    """Pixel by pixel."""
    found = np.empty_like(frames)
    rows, _, height, width, _ = frames.shape
    for row in range(rows):
        for y in range(height):
            for x in range(width):
                from_y = min(max(y + shifts[row][0] - pad, 0), height - 1)
                from_x = min(max(x + shifts[row][1] - pad, 0), width - 1)
                found[row, :, y, x] = frames[row, :, from_y, from_x]
    return found


def interpolated(frames: Tensor, shifts: Tensor, pad: int) -> Tensor:
    """As the paper words it: replicate, then sample bilinearly on a shifted grid; square frames, float."""
    rows, _, side, _, _ = frames.shape
    padded = F.pad(frames.permute(0, 1, 4, 2, 3).flatten(1, 2).float(), (pad,) * 4, mode="replicate")
    whole = side + 2 * pad
    places = (torch.arange(side)[None, :] + shifts.T[:, :, None] + 0.5) * 2 / whole - 1
    down, right = places[0][:, :, None].expand(-1, -1, side), places[1][:, None].expand(-1, side, -1)
    sampled = F.grid_sample(padded, torch.stack([right, down], dim=3), align_corners=False)
    return sampled.unflatten(1, (-1, 3)).permute(0, 1, 3, 4, 2).reshape(rows, -1, side, side, 3)


@pytest.mark.parametrize("pad", [4, 1, 0])
def test_shifts_equal_the_published_ones_and_a_plain_loop(pad: int) -> None:
    frames = draw(1, 12, (10, 10, 3)).frames
    shifted = random_shift(frames, pad, torch.Generator().manual_seed(3))
    drawn = torch.randint(2 * pad + 1, (12, 2), generator=torch.Generator().manual_seed(3))
    assert shifted.dtype == torch.uint8
    assert np.array_equal(shifted.numpy(), slowly_shifted(frames.numpy(), drawn.tolist(), pad))
    assert torch.allclose(interpolated(frames, drawn, pad), shifted.float(), atol=0.01)


def test_shifts_without_a_loop_are_equal() -> None:
    frames = torch.randint(0, 256, (6, 2, 9, 11, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    shifts = torch.tensor([[-4, -4], [4, 4], [0, 0], [3, -2], [-1, 4], [2, 2]])
    assert torch.equal(shift_by_gather(frames, shifts), shift_by_slices(frames, 4, shifts))


def test_shifts_are_uniform_and_independent_by_row() -> None:
    ramp = torch.arange(20 * 12).view(1, 1, 20, 12, 1).expand(2000, 2, -1, -1, 3).to(torch.uint8)
    corners = random_shift(ramp, 4, torch.Generator().manual_seed(0))[:, :, 4, 4]
    assert torch.equal(corners[:, 0], corners[:, 1])
    values, counts = corners[:, 0, 0].unique(return_counts=True)
    assert values.tolist() == sorted(12 * y + x for y in range(9) for x in range(9))
    assert counts.min() > 5


def test_clamped_actions_keep_their_gradient() -> None:
    actions = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.25, 1.0, 7.0], requires_grad=True)
    bounded = within_bounds(actions)
    assert bounded.tolist() == pytest.approx([-1, -1, -0.5, 0, 0.25, 1, 1], abs=2e-6)
    assert bounded.abs().max() < 1
    assert torch.equal(bounded[2:5], actions[2:5])
    (bounded * torch.arange(7.0)).sum().backward()
    assert actions.grad is not None
    assert actions.grad.tolist() == list(range(7))


def test_exploration_follows_the_schedule_and_stays_in_range() -> None:
    agent, frames = tiny(), draw(0, 1).frames.expand(4000, -1, -1, -1, -1)
    set_to_constant(agent.actor, 0.0)
    assert not agent.act(frames, explore=False).any()
    widely = agent.act(frames)
    assert 0.99 < np.abs(widely).max() < 1
    assert (np.abs(widely) > 0.99).mean() == pytest.approx(0.317, abs=0.02)  # what is beyond one sigma is clamped
    agent.step = agent.config.stddev_steps
    assert agent.act(frames).std() == pytest.approx(0.1, abs=0.005)


@pytest.mark.parametrize(
    ("step", "stddev"), [(0, 1.0), (1, 0.999991), (50_000, 0.55), (100_000, 0.1), (100_001, 0.1), (10**9, 0.1)]
)
def test_schedule_is_linear(step: int, stddev: float) -> None:
    assert DrQv2Config().stddev(step) == pytest.approx(stddev, abs=1e-12)
    assert DrQv2Config(stddev_steps=500_000).stddev(5 * step) == pytest.approx(stddev, abs=1e-12)


def test_noise_within_updates_is_clipped() -> None:
    """Clipped to nothing, the schedule makes no difference; clipped at 0.3, it does."""
    for clip, equal in ((0.0, True), (0.3, False)):
        quiet, loud = (tiny(stddev_start=stddev, stddev_clip=clip) for stddev in (0.01, 1.0))
        losses = [agent.update(draw(0))["actor_loss"] for agent in (quiet, loud)]
        assert (losses[0] == losses[1]) is equal
    noise = tiny()._noise(1000, torch.Generator(), clip=True)
    assert noise.abs().max().item() == pytest.approx(0.3)
    assert (noise.abs() == noise.abs().max()).float().mean() == pytest.approx(0.764, abs=0.03)


def test_targets_and_losses_by_hand() -> None:
    agent, batch = tiny(learning_rate=1e-9), draw(0, 2)
    batch = batch._replace(rewards=torch.tensor([1.0, -1.0]), discounts=torch.tensor([0.5, 0.0]))
    for network, value in (
        (agent.target.first, 3.0),
        (agent.target.second, 2.0),
        (agent.critic.first, 0.5),
        (agent.critic.second, 0.25),
    ):
        set_to_constant(network, value)
    found = agent.update(batch)
    # Targets: 1 + 0.5 * min(3, 2) = 2 and -1. Losses: ((0.5 - 2)^2 + 1.5^2) / 2 and ((0.25 - 2)^2 + 1.25^2) / 2.
    assert found["target_q"] == pytest.approx(0.5)
    assert found["q"] == pytest.approx(0.5)
    assert found["critic_loss"] == pytest.approx(2.25 + 2.3125)
    assert found["actor_loss"] == pytest.approx(-0.25, abs=1e-5)


def test_targets_value_the_action_that_the_actor_would_take() -> None:
    """Critics rebuilt to say twice and thrice the first action, an actor to choose 0.5: the lesser value is 1."""
    agent, batch = tiny(stddev_start=0.0), draw(0, 2)
    set_to_constant(agent.actor.policy, math.atanh(0.5))
    for network, slope in ((agent.target.first, 2.0), (agent.target.second, 3.0)):
        set_to_constant(network, 0.0)
        with torch.no_grad():
            reads, copies, says = (network[index].weight for index in (0, 2, 4))
            reads[0, TINY.features], reads[1, TINY.features] = 1, -1  # the action's positive part and its negative one
            copies[0, 0] = copies[1, 1] = 1
            says[0, 0], says[0, 1] = slope, -slope
    found = agent.update(batch._replace(rewards=torch.zeros(2), discounts=torch.tensor([0.9, 0.5])))
    assert found["target_q"] == pytest.approx((0.9 + 0.5) / 2)


def test_target_follows_by_a_hundredth() -> None:
    agent = tiny(learning_rate=1e-2)
    for seed in range(2):
        before = weights(agent)
        agent.update(draw(seed))
        after = agent.state_dict()
        for name in (name.removeprefix("target.") for name in before if name.startswith("target.")):
            expected = torch.lerp(before[f"target.{name}"], after[f"critic.{name}"], 0.01)
            assert torch.equal(after[f"target.{name}"], expected)
            if name.endswith("weight"):
                assert not torch.equal(after[f"target.{name}"], before[f"target.{name}"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_update_trains_every_weight(precision: str) -> None:
    agent = tiny(precision=precision)
    before = weights(agent)
    agent.update(draw(0))
    still = [name for name, value in agent.state_dict().items() if torch.equal(value, before[name])]
    assert still == ["step", "explored"]


def test_actor_does_not_train_the_encoder() -> None:
    """Where nothing is bootstrapped, only the actor's own update could tell one actor from another."""
    first, second = tiny(), tiny()
    with torch.no_grad():
        for weight in second.actor.parameters():
            weight.mul_(1.5)
    for seed in range(3):
        batch = draw(seed)._replace(discounts=torch.zeros(8))
        losses = [agent.update(batch)["actor_loss"] for agent in (first, second)]
        assert losses[0] != losses[1]
    mine, others = first.state_dict(), second.state_dict()
    for name in mine:
        assert torch.equal(mine[name], others[name]) or name.startswith(("actor", "adam.actor")), name


def test_bfloat16_agrees_with_float32() -> None:
    fine, coarse = (tiny(precision=precision) for precision in ("float32", "bfloat16"))
    batch = draw(0)
    assert np.allclose(fine.act(batch.frames, False), coarse.act(batch.frames, False), atol=0.02)
    for seed in range(3):
        batch = draw(seed)
        wanted, found = fine.update(batch), coarse.update(batch)
        for name, value in wanted.items():
            assert found[name] == pytest.approx(value, rel=0.03, abs=0.02), name
    assert {value.dtype for value in coarse.state_dict().values()} == {torch.float32, torch.int64}


def test_large_values_are_not_rounded_to_bfloat16() -> None:
    agent = tiny(precision="bfloat16", learning_rate=1e-9)
    set_to_constant(agent.critic.first, 300.7)
    assert agent.update(draw(0))["q"] == pytest.approx(300.7, abs=1e-3)


def bandit(seed: int, rows: int = 32) -> tuple[Transitions, Tensor]:
    """One bright half, upper or lower, says which action is best: -0.5 or 0.5; every step is the last."""
    rng = np.random.default_rng(seed)
    best = np.where(rng.random(rows) < 0.5, -0.5, 0.5).astype(np.float32)[:, None]
    frames = rng.integers(0, 60, (rows, 1, 16, 16, 3))
    bright = np.where(best[:, :, None, None, None] < 0, np.arange(16)[:, None] < 8, np.arange(16)[:, None] >= 8)
    frames = torch.from_numpy((frames + 150 * bright).astype(np.uint8))
    actions = rng.uniform(-1, 1, (rows, 1)).astype(np.float32)
    rewards = torch.from_numpy(-np.square(actions - best)[:, 0])
    return Transitions(frames, torch.from_numpy(actions), rewards, torch.zeros(rows), frames), torch.from_numpy(best)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_learns_the_best_action(precision: str) -> None:
    config = DrQv2Config(channels=8, features=16, hidden=64, learning_rate=1e-3, pad=2, precision=precision)
    agent = DrQv2((16, 16, 3), 1, 1, config)
    agent.step = config.stddev_steps
    losses = [agent.update(bandit(seed)[0])["critic_loss"] for seed in range(450)]
    assert np.mean(losses[-20:]) < 0.02 * np.mean(losses[:5])
    batch, best = bandit(1_000)
    assert np.abs(agent.act(batch.frames, explore=False) - best.numpy()).max() < 0.2


def test_cloning_learns_the_actions_of_a_batch_and_trains_no_critic() -> None:
    agent, batch = tiny(learning_rate=3e-3, pad=0), draw(0)
    before = weights(agent)
    losses = [agent.clone(batch)["clone_loss"] for _ in range(300)]
    assert losses[-1] < 0.3 * losses[0]
    assert agent.updates == 300
    chosen = torch.from_numpy(agent.act(batch.frames, explore=False))
    assert losses[-1] == pytest.approx(float((chosen - batch.actions).square().sum(1).mean()), rel=0.5)
    trained = {
        name.partition(".")[0] for name, value in agent.state_dict().items() if not torch.equal(value, before[name])
    }
    assert trained == {"encoder", "actor", "adam", "updates"}


def test_actor_stays_close_to_demonstrations_by_their_weight() -> None:
    batch, demonstrations, distances = draw(1), draw(0), []
    for weight in (0.0, 10.0):
        agent = tiny(learning_rate=3e-3, pad=0, clone_weight=weight)
        for _ in range(100):
            agent.update(batch, demonstrations if weight else None)
        chosen = torch.from_numpy(agent.act(demonstrations.frames, explore=False))
        distances.append(float((chosen - demonstrations.actions).square().sum(1).mean()))
    assert distances[1] < 0.5 * distances[0]


def test_equal_seeds_make_equal_agents() -> None:
    state = torch.get_rng_state()
    first, second, other = tiny(5), tiny(5), tiny(6)
    for seed in range(3):
        assert first.update(draw(seed)) == second.update(draw(seed))
        other.update(draw(seed))
    assert_equal(first, second)
    frames = draw(9).frames
    assert np.array_equal(first.act(frames), second.act(frames))
    assert not np.array_equal(first.act(frames), first.act(frames))
    assert not torch.equal(first.state_dict()["actor.trunk.0.weight"], other.state_dict()["actor.trunk.0.weight"])
    assert torch.equal(torch.get_rng_state(), state)


def test_agents_do_not_depend_on_the_callers_pytorch_settings(
    caller_settings: Callable[[], AbstractContextManager[None]], tmp_path: Path
) -> None:
    batches = [draw(seed) for seed in range(3)]

    def train(name: str) -> tuple[list[dict[str, float]], NDArray[np.float32], DrQv2]:
        agent = tiny(5)
        metrics = [agent.update(batch) for batch in batches[:2]]
        agent.save(tmp_path / name)
        agent = DrQv2.from_file(tmp_path / name)
        metrics.append(agent.update(batches[2]))
        return metrics, agent.act(batches[0].frames), agent

    expected_metrics, expected_actions, expected = train("one")
    with caller_settings():
        metrics, actions, agent = train("other")
    assert metrics == expected_metrics
    assert np.array_equal(actions, expected_actions)
    assert actions.dtype == np.float32
    assert_equal(agent, expected)


def test_given_generator_samples_the_noise() -> None:
    agent, frames = tiny(), draw(0).frames
    first, second = (agent.act(frames, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert np.array_equal(first, second)
    assert_equal(agent, tiny())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("way", ["from_file", "load", "state_dict"])
def test_saved_agent_continues_exactly(tmp_path: Path, way: str, precision: str) -> None:
    agent = tiny(3, precision=precision)
    agent.update(draw(0))
    agent.act(draw(0).frames)
    agent.step = 1234
    agent.save(tmp_path / "agent.safetensors")
    saved = weights(agent)
    if way == "from_file":
        again = DrQv2.from_file(tmp_path / "agent.safetensors")
        assert again.spec == agent.spec
    else:
        again = tiny(3, precision=precision)
        again.update(draw(7))  # all of this is to be forgotten
        if way == "load":
            again.load(tmp_path / "agent.safetensors")
        else:
            again.load_state_dict(saved)
    assert (again.step, again.updates) == (1234, 1)
    assert_equal(agent, again)
    for seed in range(1, 4):
        assert agent.update(draw(seed)) == again.update(draw(seed))
        assert np.array_equal(agent.act(draw(seed).frames), again.act(draw(seed).frames))
    assert_equal(agent, again)


def test_untrained_agent_can_be_saved(tmp_path: Path) -> None:
    tiny(3).save(tmp_path / "new" / "agent.safetensors")
    again = DrQv2.from_file(tmp_path / "new" / "agent.safetensors")
    assert_equal(again, tiny(3))
    agent = tiny(3)
    assert agent.update(draw(0)) == again.update(draw(0))
    assert_equal(agent, again)


def test_unwritable_path_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="could not write"):
        tiny().save(tmp_path / "file" / "agent.safetensors")


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        (DrQv2((16, 16, 3), 3, 4, TINY), "action_dim 2 instead of 4"),
        (DrQv2((16, 16, 3), 2, 2, TINY), "frame_stack 3 instead of 2"),
        (DrQv2((18, 16, 3), 3, 2, TINY), r"frame_shape \(16, 16, 3\) instead of \(18, 16, 3\)"),
        (tiny(hidden=8, channels=5), "channels 4 instead of 5, hidden 16 instead of 8"),
    ],
)
def test_agent_of_another_architecture_is_refused(tmp_path: Path, agent: DrQv2, message: str) -> None:
    tiny().save(tmp_path / "agent.safetensors")
    before = weights(agent)
    with pytest.raises(CheckpointError, match=message):
        agent.load(tmp_path / "agent.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in agent.state_dict().items())


def test_agent_loads_with_other_settings_and_seed(tmp_path: Path) -> None:
    tiny().save(tmp_path / "agent.safetensors")
    agent = tiny(4, learning_rate=0.5, stddev_steps=7)
    agent.load(tmp_path / "agent.safetensors")
    assert_equal(agent, tiny())
    assert (agent.spec.seed, agent.config.learning_rate) == (4, 0.5)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def rewrite(**changes: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        save_file(load_file(path), path, metadata={**metadata, **changes})

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "is missing"),
        (cut, "damaged or not an agent"),
        (lambda path: path.write_text("no agent"), "damaged or not an agent"),
        (flip, "damaged or was changed"),
        (rewrite(format="worldgym-episode-1"), "expected an agent .* of format .* got format 'worldgym-episode-1'"),
        (rewrite(agent="{}"), "do not describe an agent .*'action_dim' is missing"),
        (rewrite(agent="{"), "do not describe an agent .*not JSON"),
        (
            rewrite(agent=json.dumps({**dataclasses.asdict(tiny().spec), "action_dim": 3})),
            r"'actor.policy.4.weight' has shape \[2, 16\], expected \[3, 16\]",
        ),
    ],
)
def test_files_without_an_agent_are_refused(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    path = tmp_path / "agent.safetensors"
    tiny().save(path)
    damage(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        DrQv2.from_file(path)
    assert caught.value.args


def test_state_that_does_not_fit_changes_nothing() -> None:
    agent, state = tiny(), weights(tiny(1))
    state["target.first.0.weight"][0, 0] = math.nan
    state["more"] = state.pop("adam.encoder.first.weight.exp_avg")
    with pytest.raises(CheckpointError) as caught:
        agent.load_state_dict(state)
    for problem in (
        "'target.first.0.weight' holds values that are not finite",
        "'more' is unknown",
        "'adam.encoder.first.weight.exp_avg' is missing",
    ):
        assert problem in str(caught.value)
    assert_equal(agent, tiny())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": torch.zeros(8, 1)}, r"expected rewards torch.float32 \[8\], got torch.float32 \[8, 1\]"),
        ({"actions": torch.zeros(8, 3)}, r"expected actions .*\[8, 2\], got .*\[8, 3\]"),
        ({"discounts": torch.zeros(8, dtype=torch.float64)}, "expected discounts torch.float32"),
        ({"next_frames": torch.zeros(8, 3, 16, 16, 3)}, "expected next_frames torch.uint8"),
        ({"frames": torch.zeros(0, 3, 16, 16, 3, dtype=torch.uint8)}, r"expected frames .*\[0, 3"),
        ({"rewards": torch.full((8,), math.nan)}, "expected finite rewards, got others"),
        ({"actions": torch.full((8, 2), math.inf)}, "expected finite actions, got others"),
    ],
)
def test_bad_batches_are_refused_before_training(changes: dict[str, Tensor], message: str) -> None:
    agent = tiny()
    with pytest.raises(TrainingError, match=message):
        agent.update(draw(0)._replace(**changes))
    assert_equal(agent, tiny())


def test_diverged_training_raises() -> None:
    with pytest.raises(
        TrainingError, match=r"Training diverged at update 1: critic loss inf.*learning_rate below 0.0001"
    ):
        tiny().update(draw(0)._replace(rewards=torch.full((8,), 1e30)))


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((3, 16, 16, 3), np.float32),
        np.zeros((2, 16, 16, 3), np.uint8),
        np.zeros((1, 1, 3, 16, 16, 3), np.uint8),
        torch.zeros(3, 16, 18, 3, dtype=torch.uint8),
        np.zeros((16, 16, 3), np.uint8),
    ],
)
def test_act_refuses_other_frames(frames: Any) -> None:
    with pytest.raises(InvalidFrames, match=r"expected uint8 frames \[3, 16, 16, 3\], or a batch of them, got"):
        tiny().act(frames)


def test_act_takes_read_only_frames() -> None:
    frames = draw(0).frames.numpy()
    frames.flags.writeable = False
    assert tiny().act(frames).shape == (8, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden": 0},
        {"learning_rate": math.nan},
        {"tau": 0.0},
        {"discount": 1.5},
        {"stddev_clip": -0.1},
        {"pad": -1},
        {"precision": "half"},
    ],
)
def test_invalid_settings_raise(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        DrQv2Config(**changes)


@pytest.mark.parametrize("sizes", [((14, 64, 3), 3, 4), ((64, 64), 3, 4), ((64, 64, 1), 3, 4), ((64, 64, 3), 0, 4)])
def test_invalid_sizes_raise(sizes: tuple[tuple[int, ...], int, int]) -> None:
    with pytest.raises(ConfigError, match="got"):
        DrQv2(*sizes, TINY)
    with pytest.raises(ConfigError, match="seed at least 0"):
        DrQv2((16, 16, 3), 3, 2, TINY, seed=-1)


def test_actor_means_are_in_range() -> None:
    means = Actor(7, 3, TINY)(100 * torch.randn(50, 7))
    assert means.shape == (50, 3)
    assert means.abs().max() <= 1
