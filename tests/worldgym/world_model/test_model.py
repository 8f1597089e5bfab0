import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worldgym.config import Sampling, TransformerConfig
from worldgym.errors import ConfigError, InvalidAction, InvalidFrames, OutOfMemory
from worldgym.symlog import symexp
from worldgym.world_model import Imagined, WorldModel, WorldModelState, memory

MakeModel = Callable[..., WorldModel]
BATCH, WINDOW = 2, 4  # the tiny model's window holds four imagined frames


def frames_for(model: WorldModel, batch: int = BATCH, seed: int = 1) -> Tensor:
    side, generator = model.config.resolution, torch.Generator().manual_seed(seed)
    shape = (batch, model.config.context_length, side, side, 3)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def actions_for(model: WorldModel, horizon: int, batch: int = BATCH) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(batch, horizon, model.config.action_dim, generator=generator) * 2 - 1


def noise(seed: int, batch: int = BATCH) -> Tensor:
    return torch.rand(batch, 4, generator=torch.Generator().manual_seed(seed))


def test_a_greedy_rollout_equals_the_reference(parity: Path, expected: dict[str, Tensor]) -> None:
    model = WorldModel.from_pretrained(parity)
    context = (expected["video"][:, :2] * 255).round().to(torch.uint8).movedim(2, -1)
    actions = expected["action"][:, 1:4]
    state = model.start(context)
    for t in range(3):
        step = model._advance(state, actions[:, t], torch.zeros(2, 16), Sampling(top_k=1))
        assert torch.equal(model.layout.dynamics_id(step.codes), expected["rollout_tokens"][:, t])
        torch.testing.assert_close(step.reward, symexp(expected["rollout_rewards"][:, t, 0]), atol=1e-4, rtol=1e-4)
    imagined = model.rollout(context, actions, top_k=1)
    assert torch.equal(model.layout.dynamics_id(imagined.tokens), expected["rollout_tokens"])
    frames = (expected["rollout_frames"] * 255).movedim(2, -1)
    assert (imagined.frames.float() - frames).abs().max() <= 0.5 + 255e-4
    wanted = symexp(expected["rollout_rewards"].squeeze(-1))
    torch.testing.assert_close(imagined.rewards, wanted, atol=1e-4, rtol=1e-4)


def test_shapes_and_types(model: WorldModel) -> None:
    state = model.start(frames_for(model).numpy())
    assert len(state) == BATCH
    assert torch.equal(state.uncertainty, torch.zeros(BATCH))
    moved, frame, reward = model.step(state, np.zeros((BATCH, 3), np.float32))
    assert moved is state
    assert (frame.shape, frame.dtype) == ((BATCH, 32, 32, 3), torch.uint8)
    assert (reward.shape, reward.dtype) == ((BATCH,), torch.float32)
    assert torch.equal(state.frames[:, -1], frame)
    assert (state.uncertainty > 0).all()
    assert (state.uncertainty <= math.log(model.layout.dynamics_codes)).all()
    assert not frame.is_inference()
    assert not reward.requires_grad


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("horizon", [3, 2 * WINDOW + 1])
def test_a_rollout_equals_its_steps(model: WorldModel, horizon: int, decode: bool) -> None:
    context, actions = frames_for(model), actions_for(model, horizon)
    imagined = model.rollout(
        context, actions, temperature=0.8, top_k=6, generator=torch.Generator().manual_seed(3), decode=decode
    )
    state, generator = model.start(context), torch.Generator().manual_seed(3)
    for t in range(horizon):
        state, frame, reward = model.step(state, actions[:, t], 0.8, 6, generator)
        assert not decode or torch.equal(frame, imagined.frames[:, t])
        assert torch.equal(reward, imagined.rewards[:, t])
        assert torch.equal(state.uncertainty, imagined.uncertainty[:, t])
    assert imagined.frames.shape == (BATCH, horizon if decode else 0, 32, 32, 3)
    assert imagined.tokens.shape == (BATCH, horizon, 4)
    assert not imagined.tokens.is_inference()


def test_equal_seeds_give_equal_rollouts(model: WorldModel) -> None:
    def once(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return model.rollout(frames_for(model), actions_for(model, 3), generator=generator).tokens

    assert torch.equal(once(5), once(5))
    assert not torch.equal(once(5), once(6))


def test_the_default_noise_is_from_the_default_generator(model: WorldModel) -> None:
    torch.manual_seed(7)
    first = model.rollout(frames_for(model), actions_for(model, 2)).tokens
    torch.manual_seed(7)
    assert torch.equal(model.rollout(frames_for(model), actions_for(model, 2)).tokens, first)


def test_a_batch_equals_its_rows(model: WorldModel) -> None:
    context, actions = frames_for(model), actions_for(model, 1)[:, 0]
    _, together, rewards = model.step(model.start(context), actions, noise=noise(1))
    for row in range(BATCH):
        one = slice(row, row + 1)
        _, frame, reward = model.step(model.start(context[one]), actions[one], noise=noise(1)[one])
        assert (frame.int() - together[one].int()).abs().max() <= 1
        torch.testing.assert_close(reward, rewards[one], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [0, -1])
def test_a_fork_needs_at_least_one_copy(model: WorldModel, count: int) -> None:
    with pytest.raises(ConfigError, match=f"at least 1, got {count}"):
        model.start(frames_for(model)).fork(count)


def test_a_fork_equals_a_repeated_start(model: WorldModel) -> None:
    context, actions = frames_for(model), actions_for(model, 2)
    trunk, _, _ = model.step(model.start(context), actions[:, 0], noise=noise(1))
    branches = trunk.fork(3)
    before = trunk.frames.clone()
    repeated = actions.repeat_interleave(3, 0)
    _, frame, reward = model.step(branches, repeated[:, 1], noise=noise(2, 3 * BATCH))
    assert torch.equal(trunk.frames, before)

    other = model.start(context.repeat_interleave(3, 0))
    model.step(other, repeated[:, 0], noise=noise(1).repeat_interleave(3, 0))
    _, frame_too, reward_too = model.step(other, repeated[:, 1], noise=noise(2, 3 * BATCH))
    assert (frame.int() - frame_too.int()).abs().max() <= 1
    torch.testing.assert_close(reward, reward_too, atol=1e-4, rtol=1e-4)


def test_put_replaces_one_row(model: WorldModel) -> None:
    context, actions = frames_for(model), actions_for(model, WINDOW + 2)
    state = model.start(context)
    model.step(state, actions[:, 0], noise=noise(0))
    state.put([1], model.start(context[1:]))
    alone = model.start(context[1:])
    for t in range(1, WINDOW + 2):
        _, frame, _ = model.step(state, actions[:, t], noise=noise(t))
        _, frame_alone, _ = model.step(alone, actions[1:, t], noise=noise(t)[1:])
        assert (frame[1:].int() - frame_alone.int()).abs().max() <= 1
        assert torch.equal(state.reanchored[1:], alone.reanchored)
        assert state.reanchored.tolist() == [t == WINDOW, t == WINDOW + 1]
    chosen = state.select(np.array([1]))
    assert torch.equal(chosen.frames, state.frames[1:])


def test_a_full_window_reanchors_at_the_last_frames(model: WorldModel) -> None:
    actions = actions_for(model, WINDOW + 1)
    state, shown = model.start(frames_for(model)), []
    for t in range(WINDOW):
        _, frame, _ = model.step(state, actions[:, t], noise=noise(t))
        shown.append(frame)
        assert not state.reanchored.any()
    fresh = model.start(torch.stack(shown[-2:], dim=1))
    _, frame, reward = model.step(state, actions[:, WINDOW], noise=noise(9))
    _, wanted, wanted_reward = model.step(fresh, actions[:, WINDOW], noise=noise(9))
    assert state.reanchored.all()
    assert torch.equal(frame, wanted)
    assert torch.equal(reward, wanted_reward)


def test_the_goal_stays_first(make_model: MakeModel) -> None:
    model = make_model(goal_conditioned=True)
    context = frames_for(model)
    state = model.start(context)
    for t in range(WINDOW + 2):
        _, frame, _ = model.step(state, torch.zeros(BATCH, 3), noise=noise(t))
        assert torch.equal(state.frames, torch.stack([context[:, 0], frame], dim=1))


def test_an_action_free_model(make_model: MakeModel) -> None:
    model = make_model(action_dim=0, reward=False)
    imagined = model.rollout(frames_for(model), horizon=2)
    assert imagined.frames.shape == (BATCH, 2, 32, 32, 3)
    assert imagined.rewards.isnan().all()
    _, _, reward = model.step(model.start(frames_for(model)))
    assert reward.isnan().all()


def test_actions_matter(model: WorldModel) -> None:
    branches = model.start(frames_for(model)).fork(2)
    actions = torch.tensor([[1.0] * 3, [-1.0] * 3] * BATCH)
    _, _, reward = model.step(branches, actions, top_k=1)
    assert reward[0] != reward[1]


def test_identity_rewards_are_not_transformed(make_model: MakeModel) -> None:
    rewards = [
        make_model(reward_transform=name).rollout(frames_for(make_model()), torch.zeros(BATCH, 1, 3), top_k=1).rewards
        for name in ("identity", "symlog")
    ]
    torch.testing.assert_close(symexp(rewards[0]), rewards[1])


def test_parts_in_training_mode_are_set_to_evaluation_mode(model: WorldModel) -> None:
    wanted = model.rollout(frames_for(model), actions_for(model, 1), top_k=1)
    model.transformer.train()
    model.transformer.dropout = 0.9
    model.tokenizer.train()
    again = model.rollout(frames_for(model), actions_for(model, 1), top_k=1)
    assert torch.equal(again.frames, wanted.frames)
    state = model.start(frames_for(model))
    model.transformer.train()
    assert torch.equal(model.step(state, actions_for(model, 1)[:, 0], top_k=1)[1], wanted.frames[:, 0])
    model.tokenizer.train()
    assert torch.equal(model.decode(frames_for(model), wanted.tokens), wanted.frames)


@pytest.mark.filterwarnings("error")
def test_arrays_of_any_strides(model: WorldModel) -> None:
    context = frames_for(model).numpy()
    flipped = context[:, :, ::-1]
    fixed = np.ascontiguousarray(flipped)
    fixed.flags.writeable = False
    assert torch.equal(model.start(flipped).frames, model.start(fixed).frames)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.zeros(1, 2, 32, 32, 3), r"got torch.float32 \[1, 2, 32, 32, 3\].*as uint8"),
        (np.zeros((1, 2, 32, 32, 3), np.int64), "got int64"),
        (np.zeros((2, 32, 32, 3), np.uint8), r"frames\[None\] adds a batch"),
        (np.zeros((1, 2, 3, 32, 32), np.uint8), "colours last"),
        (np.zeros((0, 2, 32, 32, 3), np.uint8), "got uint8"),
        (np.zeros((1, 3, 32, 32, 3), np.uint8), "starts from exactly 2 frames"),
        (np.zeros((1, 2, 64, 64, 3), np.uint8), "of 32 x 32 pixels"),
        ([[0]], "numpy array or tensor, got list"),
    ],
)
def test_frames_that_do_not_fit_are_refused(model: WorldModel, frames: Any, message: str) -> None:
    with pytest.raises(InvalidFrames, match=message):
        model.start(frames)
    with pytest.raises(InvalidFrames, match=message):
        model.rollout(frames, torch.zeros(1, 1, 3))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(3, np.float32), r"expected an action of shape \(2, 3\), got \(3,\)"),
        (np.zeros((2, 4), np.float32), r"got \(2, 4\)"),
        (np.full((2, 3), np.nan, np.float32), r"finite action values, got nan at index \[0, 0\]"),
        (torch.tensor([[0.0] * 3, [0.0, math.inf, 0.0]]), r"got inf at index \[1, 1\]"),
        (np.full((2, 3), 1e300), "got inf"),
        (np.full((2, 3), "x"), r"expected an action of shape \(2, 3\)"),
        (None, r"this model takes actions: expected shape \(2, 3\), got None"),
    ],
)
def test_actions_that_do_not_fit_are_refused(model: WorldModel, action: Any, message: str) -> None:
    state = model.start(frames_for(model))
    with pytest.raises(InvalidAction, match=message):
        model.step(state, action)
    assert state.cache.lengths == [model.layout.prefix_length] * BATCH


def test_horizons_that_do_not_fit_are_refused(make_model: MakeModel) -> None:
    model, free = make_model(), make_model(action_dim=0)
    context = frames_for(model)
    for case in (
        lambda: model.rollout(context),
        lambda: model.rollout(context, torch.zeros(BATCH, 2, 3), horizon=2),
        lambda: model.rollout(context, torch.zeros(BATCH, 0, 3)),
        lambda: model.rollout(context, torch.zeros(BATCH, 2)),
        lambda: model.rollout(context, [[[0.0] * 3] * 2] * (BATCH - 1) + [[[0.0] * 3]]),  # type: ignore[arg-type]
        lambda: free.rollout(context),
        lambda: free.rollout(context, torch.zeros(BATCH, 2, 3)),
        lambda: free.rollout(context, horizon=0),
        lambda: free.step(free.start(context), torch.zeros(BATCH, 3)),
    ):
        with pytest.raises(InvalidAction):
            case()


def test_invalid_sampling_is_refused(model: WorldModel) -> None:
    state = model.start(frames_for(model))
    for options in (
        {"temperature": 0.0},
        {"top_k": 0},
        {"noise": torch.rand(BATCH, 3)},
        {"noise": np.zeros((2, 4), int)},
    ):
        with pytest.raises(ConfigError):
            model.step(state, torch.zeros(BATCH, 3), **options)  # type: ignore[arg-type]


def test_parts_that_do_not_fit_the_configuration_are_refused(make_model: MakeModel) -> None:
    model = make_model()
    with pytest.raises(ConfigError, match="the parts do not fit"):
        WorldModel(make_model(action_dim=2).config, model.tokenizer, model.transformer)
    wide = make_model(transformer=TransformerConfig(1, 2, 2, 16, 16, 200))
    with pytest.raises(ConfigError, match="the parts do not fit"):
        WorldModel(wide.config, model.tokenizer, model.transformer)


def test_bfloat16_is_close_to_float32(model: WorldModel) -> None:
    wanted = model.rollout(frames_for(model), actions_for(model, 2), top_k=1)
    model.to(dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    got = model.rollout(frames_for(model), actions_for(model, 2), top_k=1)
    assert got.rewards.dtype == got.uncertainty.dtype == torch.float32
    assert got.frames.shape == wanted.frames.shape
    torch.testing.assert_close(got.uncertainty[:, 0], wanted.uncertainty[:, 0], atol=0.3, rtol=0.3)


def assert_same(got: Imagined, wanted: Imagined) -> None:
    """Up to the rounding of batches of another size."""
    assert torch.equal(got.tokens, wanted.tokens)
    assert got.frames.shape == wanted.frames.shape
    if got.frames.numel():
        assert (got.frames.int() - wanted.frames.int()).abs().max() <= 1
    torch.testing.assert_close(got.rewards, wanted.rewards, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got.uncertainty, wanted.uncertainty, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("horizon", "decode"), [(3, True), (3, False), (2 * WINDOW + 1, True)])
def test_imagining_continues_a_state(model: WorldModel, horizon: int, decode: bool) -> None:
    context, actions = frames_for(model), actions_for(model, horizon)
    wanted = seeded(model, context, actions, decode=decode)
    generator, state = torch.Generator().manual_seed(3), model.start(context)
    drawn = torch.stack([torch.rand(BATCH, 4, generator=generator) for _ in range(horizon)], dim=1)
    options = {"temperature": 0.8, "top_k": 6, "decode": decode}
    parts = [
        model.imagine(state, actions[:, steps], noise=drawn[:, steps], **options)  # type: ignore[arg-type]
        for steps in (slice(1), slice(1, None))
    ]
    got = Imagined(*(torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True)))
    assert_same(got, wanted)
    torch.testing.assert_close(got.reward_spread, wanted.reward_spread, equal_nan=True)
    assert got.reward_spread.shape == (BATCH, horizon)
    with pytest.raises(ConfigError, match="expected noise for 1 steps"):
        model.imagine(state, actions[:, :1], noise=drawn)


def seeded(model: WorldModel, frames: Tensor, actions: Tensor, **options: Any) -> Imagined:
    return model.rollout(frames, actions, 0.8, 6, torch.Generator().manual_seed(3), **options)


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each chunk of a rollout had."""
    sizes: list[int] = []
    whole = WorldModel._rollout

    def counted(self: WorldModel, context: Tensor, actions: Any, noise: Tensor, *rest: Any) -> Imagined:
        sizes.append(len(noise))
        return whole(self, context, actions, noise, *rest)

    monkeypatch.setattr(WorldModel, "_rollout", counted)
    return sizes


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("contexts", [1, 7])
@pytest.mark.parametrize("horizon", [2, WINDOW + 2])
def test_a_budget_changes_nothing(
    model: WorldModel, chunks: list[int], horizon: int, contexts: int, decode: bool
) -> None:
    frames, actions = frames_for(model, contexts), actions_for(model, horizon, 7)
    wanted = seeded(model, frames, actions, decode=decode)
    budget = model.memory(3, horizon)
    assert_same(seeded(model, frames, actions, decode=decode, budget=budget), wanted)
    assert_same(seeded(model, frames, actions, decode=decode, budget=2**40), wanted)
    assert chunks == [7, 3, 3, 1, 7]


def test_a_budget_below_one_row_is_refused(model: WorldModel) -> None:
    needed = model.memory(1, 2)
    model.rollout(frames_for(model), actions_for(model, 2), budget=needed)
    with pytest.raises(OutOfMemory, match=f"not even one row of 2 frames fits budget={needed - 1} .* takes {needed}"):
        model.rollout(frames_for(model), actions_for(model, 2), budget=needed - 1)


@pytest.mark.parametrize("horizon", [2, 2 * WINDOW + 1])
def test_one_context_for_all_actions(model: WorldModel, horizon: int) -> None:
    frames, actions = frames_for(model, 1), actions_for(model, horizon, 5)
    assert_same(seeded(model, frames, actions), seeded(model, frames.expand(5, -1, -1, -1, -1), actions))


def test_one_context_is_encoded_once(model: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, encode = [], model.tokenizer.encode_context

    def counted(frames: Tensor) -> Any:
        encoded.append(len(frames))
        return encode(frames)

    monkeypatch.setattr(model.tokenizer, "encode_context", counted)
    model._feature_values  # noqa: B018  # found by encoding a frame, once
    encoded.clear()
    model.rollout(frames_for(model, 1), actions_for(model, 2, 5))
    assert encoded == [1]


@pytest.mark.parametrize("rows", [0, 3])
def test_actions_for_another_batch_are_refused(model: WorldModel, rows: int) -> None:
    with pytest.raises(InvalidAction, match=rf"got \({rows}, 2, 3\)"):
        model.rollout(frames_for(model), actions_for(model, 2, rows))
    if not rows:
        with pytest.raises(InvalidAction, match=r"shape \(1, 2, 3\), got \(0, 2, 3\)"):
            model.rollout(frames_for(model, 1), actions_for(model, 2, rows))


@pytest.mark.parametrize("contexts", [1, BATCH])
@pytest.mark.parametrize("horizon", [1, WINDOW])
def test_tokens_decode_to_the_frames_of_their_rollout(model: WorldModel, horizon: int, contexts: int) -> None:
    frames, actions = frames_for(model, contexts), actions_for(model, horizon)
    wanted = seeded(model, frames, actions)
    bare = seeded(model, frames, actions, decode=False)
    assert torch.equal(bare.tokens, wanted.tokens)
    assert torch.equal(model.decode(frames.numpy(), bare.tokens), wanted.frames)


def test_invalid_tokens_are_refused(model: WorldModel) -> None:
    frames = frames_for(model)
    for shape in ((BATCH, 0, 4), (BATCH, WINDOW + 1, 4), (BATCH, 2, 3), (BATCH, 4), ()):
        with pytest.raises(ConfigError, match=rf"horizon from 1 to {WINDOW}, 4\], got"):
            model.decode(frames, torch.zeros(shape, dtype=torch.int64))
    with pytest.raises(InvalidFrames, match="expected 1 or 3 contexts"):
        model.decode(frames, torch.zeros(3, 2, 4, dtype=torch.int64))


def advanced(state: WorldModelState, seed: int) -> tuple[Tensor, ...]:
    """The results of one step whose noise and actions depend on the seed."""
    generator = torch.Generator().manual_seed(seed)
    action = torch.rand(len(state), 3, generator=generator) * 2 - 1
    _, frame, reward = state.model.step(state, action, 0.8, 6, generator)
    return frame, reward, state.uncertainty, state.reanchored


def assert_equal(got: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def repeated(state: WorldModelState, count: int) -> WorldModelState:
    return state.select([row for row in range(len(state)) for _ in range(count)])


def test_branches_are_independent_of_each_other(model: WorldModel) -> None:
    """Trunk, branches and branches of branches in turn, until every one has been re-anchored."""
    trunk = model.start(frames_for(model))
    advanced(trunk, 0)
    trunk.put([0], model.start(frames_for(model, 1, seed=7)))
    apart, branches, copies = repeated(trunk, 1), trunk.fork(3), repeated(trunk, 3)
    pairs = [(trunk, apart), (branches, copies)]
    for t in range(2 * WINDOW):
        if t in (1, 3):
            pairs.append((branches.fork(2), repeated(copies, 2)))
        if t == 2:
            for state, (one, other) in zip((1, 0), pairs, strict=False):
                fresh = model.start(frames_for(model, 1, seed=8))
                one.put([state], fresh)
                other.put([state], fresh)
        for shared, separate in pairs if t % 2 else pairs[::-1]:
            assert_equal(advanced(shared, 10 + t), advanced(separate, 10 + t))
            assert torch.equal(shared.frames[:, -1], separate.frames[:, -1])


def test_forks_share_the_memory_of_their_past() -> None:
    model = WorldModel.from_pretrained("metaworld-64")
    state = model.start(torch.zeros(1, 2, 64, 64, 3, dtype=torch.uint8))
    for _ in range(10):
        model.step(state, torch.zeros(1, 4))
    branches = state.fork(64)
    assert branches.nbytes < 0.35 * 64 * state.nbytes
    assert state.select([0] * 64).nbytes > 0.99 * 64 * state.nbytes


def test_two_hundred_steps_take_no_more_memory_than_one(model: WorldModel) -> None:
    state = model.start(frames_for(model, 1))
    branches = state.fork(2)
    sizes, anew = set(), 0
    for t in range(205):
        for one in (state, branches):
            advanced(one, t)
        anew += int(state.reanchored[0])
        assert max(state.cache.lengths) <= model.config.transformer.max_positions
        if t > WINDOW:
            sizes.add((state.nbytes, branches.nbytes))
    assert anew > 200 // WINDOW - 5
    assert sizes == {(state.nbytes, 2 * state.nbytes)}


def test_a_state_of_another_model_is_refused(make_model: MakeModel) -> None:
    model, other = make_model(), make_model()
    state = other.start(frames_for(model))
    with pytest.raises(ConfigError, match="started by another model"):
        model.step(state, torch.zeros(BATCH, 3))
    other.to(dtype=torch.bfloat16)
    with pytest.raises(ConfigError, match=r"state is torch.float32 on cpu and the model was moved to torch.bfloat16"):
        other.step(state, torch.zeros(BATCH, 3))
    assert state.cache.lengths == [model.layout.prefix_length] * BATCH
    with pytest.raises(ConfigError, match="no rows"):
        other.step(state.select([]), torch.zeros(0, 3))


@pytest.fixture(scope="module")
def shipped() -> WorldModel:
    return WorldModel.from_pretrained("metaworld-64")


@pytest.mark.parametrize("horizon", [1, None])
@pytest.mark.parametrize("batch", [1, 33])
def test_estimated_memory_is_close_to_that_of_a_state(shipped: WorldModel, batch: int, horizon: int | None) -> None:
    """The state alone up to its temporary frames; with temporary memory at most a few times that."""
    positions = shipped.memory_estimate.positions(horizon)
    state = shipped._start(torch.zeros(batch, 2, 64, 64, 3, dtype=torch.uint8), positions)
    branch, image = shipped.memory_estimate.costs(positions, branch=True)
    row, _ = shipped.memory_estimate.costs(positions)
    assert state.nbytes <= shipped.memory(batch, horizon)
    kept = branch - 2 * 3 * 3 * 64 * 64  # keys and values
    assert state.cache.nbytes == batch * kept
    assert state.nbytes <= batch * row
    assert shipped.memory(batch, horizon) <= 4 * state.nbytes + min(2 * batch, 64) * image


def test_estimating_memory_changes_no_weights(model: WorldModel) -> None:
    model.tokenizer.train()
    before = {name: value.clone() for name, value in model.tokenizer.state_dict().items()}
    assert model.memory(2, 1) < model.memory(2) < model.memory(3)
    assert not model.tokenizer.training
    for name, value in model.tokenizer.state_dict().items():
        assert torch.equal(value, before[name])


@settings(deadline=None, max_examples=60)
@given(budget=st.integers(0, 2**36), horizon=st.one_of(st.none(), st.integers(1, 40)))
def test_the_largest_batch_is_the_largest_that_fits(shipped: WorldModel, budget: int, horizon: int | None) -> None:
    batch = shipped.largest_batch(budget, horizon)
    assert batch == 0 or shipped.memory(batch, horizon) <= budget
    assert shipped.memory(batch + 1, horizon) > budget


@pytest.mark.parametrize("free", [2**20, 2**24, 2**28])
def test_the_batch_named_in_the_error_fits(model: WorldModel, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Nothing is allocated for too large batches; exactly as many rows as the message names are accepted."""
    monkeypatch.setattr(memory, "UNCHECKED_BYTES", 0)
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    monkeypatch.setattr(WorldModel, "_start", lambda self, frames, positions: "started")
    monkeypatch.setattr(WorldModel, "_rollout", lambda self, *_: "rolled out")
    one, many = np.zeros((1, 2, 32, 32, 3), np.uint8), 10**7

    def contexts(rows: int) -> Any:
        return np.broadcast_to(one, (rows, 2, 32, 32, 3))

    def actions(rows: int) -> Tensor:
        return torch.zeros(1, 2, 3).expand(rows, -1, -1)

    asks: list[tuple[Callable[[int], Any], Any]] = [
        (lambda rows: model.start(contexts(rows)), "started"),
        (lambda rows: model.rollout(contexts(rows), actions(rows)), "rolled out"),
        (lambda rows: model.rollout(one, actions(rows)), "rolled out"),
    ]
    for ask, wanted in asks:
        with pytest.raises(OutOfMemory, match=r"a batch of 10000000 needs about .* GiB are free on cpu") as caught:
            ask(many)
        largest = int(re.findall(r"at most (\d+) rows fit", str(caught.value))[0])
        if free > 2**20:
            assert ask(largest) == wanted
        with pytest.raises(OutOfMemory, match=f"at most {largest} rows fit"):
            ask(largest + 1)


def test_a_fork_that_does_not_fit_is_refused(model: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    state = model.start(frames_for(model))
    monkeypatch.setattr(memory, "UNCHECKED_BYTES", 0)
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**27)
    with pytest.raises(OutOfMemory) as caught:
        state.fork(10**5)
    largest = int(re.findall(r"at most (\d+) rows fit", str(caught.value))[0])
    assert len(state.fork(largest // BATCH)) == largest // BATCH * BATCH
    with pytest.raises(OutOfMemory):
        state.fork(largest // BATCH + 1)


def test_state_is_a_public_type(model: WorldModel) -> None:
    import worldgym

    assert worldgym.WorldModel is WorldModel
    assert isinstance(model.start(frames_for(model)), worldgym.WorldModelState)
    assert worldgym.WorldModelState is WorldModelState
    with pytest.raises(AttributeError, match="no attribute 'WorldModle'"):
        worldgym.WorldModle  # type: ignore[attr-defined]  # noqa: B018
