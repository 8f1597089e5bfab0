"""A position window that slides: the context stays, the older half of the imagined frames leaves."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from worldgym.config import TransformerConfig
from worldgym.data.recordings import to_unit
from worldgym.errors import ConfigError
from worldgym.symlog import symexp
from worldgym.world_model import WorldModel, WorldModelState

MakeModel = Callable[..., WorldModel]
BATCH, WINDOW, KEPT, STEPS = 2, 4, 2, 9


@pytest.fixture
def sliding(make_model: MakeModel) -> WorldModel:
    return make_model(slides=True, success=True, termination=True)


def context(model: WorldModel) -> Tensor:
    side, generator = model.config.resolution, torch.Generator().manual_seed(1)
    return torch.randint(256, (BATCH, 2, side, side, 3), generator=generator, dtype=torch.uint8)


def context_codes(model: WorldModel) -> Tensor:
    with torch.no_grad():
        return model.tokenizer.encode_context(to_unit(context(model)))[0]


def actions(steps: int = STEPS) -> Tensor:
    return torch.rand(BATCH, steps, 3, generator=torch.Generator().manual_seed(2)) * 2 - 1


def noise(step: int) -> Tensor:
    return torch.rand(BATCH, 4, generator=torch.Generator().manual_seed(step))


def advance(model: WorldModel, state: WorldModelState, first: int, last: int) -> list[tuple[Tensor, ...]]:
    """Frames, rewards and probabilities of steps ``first`` to ``last``."""
    steps = []
    for step in range(first, last):
        _, frame, reward = model.step(state, actions()[:, step], noise=noise(step))
        steps.append((frame, reward, state.success_probability, state.termination_probability))
    return steps


def test_a_window_that_slid_equals_a_window_of_training(sliding: WorldModel) -> None:
    state, codes = sliding.start(context(sliding)), []
    for step in range(WINDOW + 1):
        model = sliding.step(state, actions()[:, step], noise=noise(step))
        codes.append(state.recent_codes[:, -1])
    assert state.reanchored.all()
    window = slice(WINDOW - KEPT, WINDOW + 1)
    tokens = sliding.layout.sequence(context_codes(sliding), torch.stack(codes[window], dim=1))
    with torch.no_grad():
        out = sliding.transformer(tokens, actions()[:, window])
    assert out.rewards is not None
    assert out.values.success is not None
    assert out.values.termination is not None
    torch.testing.assert_close(model[2], symexp(out.rewards[:, -1]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state.success_probability, out.values.success[:, -1].sigmoid())
    torch.testing.assert_close(state.termination_probability, out.values.termination[:, -1].sigmoid())


def test_the_window_slides_when_it_is_full(sliding: WorldModel) -> None:
    state, slid = sliding.start(context(sliding)), []
    for step in range(STEPS):
        sliding.step(state, actions()[:, step], noise=noise(step))
        slid.append(bool(state.reanchored.all()))
    assert [step for step, found in enumerate(slid) if found] == [4, 6, 8]


@pytest.mark.parametrize("decode", [True, False])
def test_a_long_rollout_equals_its_steps_and_decodes_from_its_context(sliding: WorldModel, decode: bool) -> None:
    def rollout() -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(5)
        return sliding.rollout(context(sliding), actions(), generator=generator, decode=decode)

    imagined = sliding.rollout(context(sliding), actions(), generator=torch.Generator().manual_seed(5), decode=decode)
    for one, other in zip(imagined, rollout(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    state, generator = sliding.start(context(sliding)), torch.Generator().manual_seed(5)
    for step in range(STEPS):
        _, frame, reward = sliding.step(state, actions()[:, step], generator=generator)
        assert torch.equal(reward, imagined.rewards[:, step])
        assert torch.equal(state.success_probability, imagined.success_probability[:, step])
        if decode:
            assert torch.equal(frame, imagined.frames[:, step])
    if decode:
        assert torch.equal(sliding.decode(context(sliding), imagined.tokens), imagined.frames)
    else:
        assert imagined.frames.shape[1] == 0


def test_forks_copies_and_restored_states_slide_alike(sliding: WorldModel, tmp_path: Path) -> None:
    state = sliding.start(context(sliding))
    advance(sliding, state, 0, 3)
    path = tmp_path / "state.safetensors"
    state.save(path)
    branch, copied, restored = state.fork(1), state.select([0, 1]), sliding.restore(path)
    wanted = advance(sliding, state, 3, STEPS)
    for other in (branch, copied, restored):
        for steps in zip(wanted, advance(sliding, other, 3, STEPS), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(*steps, strict=True))


def test_rows_slide_at_their_own_time(sliding: WorldModel) -> None:
    state = sliding.start(context(sliding))
    advance(sliding, state, 0, 2)
    fresh = sliding.start(context(sliding)[1:])
    state.put([1], fresh)
    alone = sliding.start(context(sliding)[1:])
    for step in range(2, STEPS):
        _, frame, _ = sliding.step(state, actions()[:, step], noise=noise(step))
        _, wanted, _ = sliding.step(alone, actions()[1:, step], noise=noise(step)[1:])
        assert torch.equal(frame[1:], wanted)


def test_an_action_free_window_slides(make_model: MakeModel) -> None:
    model = make_model(action_dim=0, slides=True)
    assert model.rollout(context(model), horizon=STEPS).frames.shape[1] == STEPS


def test_probabilities_are_unknown_without_heads(model: WorldModel) -> None:
    state = model.start(context(model))
    model.step(state, actions()[:, 0])
    assert state.success_probability.isnan().all()
    assert state.termination_probability.isnan().all()


def test_a_window_of_one_frame_cannot_slide(make_model: MakeModel) -> None:
    small = TransformerConfig(layers=1, heads=4, hidden_size=32, mlp_size=48, max_positions=129 + 5)
    with pytest.raises(ConfigError, match="room for at least 2 future frames"):
        make_model(transformer=small, slides=True)
