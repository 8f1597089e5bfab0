"""A start from more real frames than the context: what happened since is read, not imagined."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from worldgym.errors import ConfigError, InvalidAction, InvalidFrames
from worldgym.tokenizer.base import ContextFeatures
from worldgym.world_model import WorldModel, WorldModelState
from worldgym.world_model.images import decode_frame, to_uint8

MakeModel = Callable[..., WorldModel]
BATCH, CONTEXT, WINDOW, KEPT = 2, 2, 4, 2


def frames(model: WorldModel, count: int) -> Tensor:
    side, generator = model.config.resolution, torch.Generator().manual_seed(3)
    return torch.randint(256, (BATCH, count, side, side, 3), generator=generator, dtype=torch.uint8)


def actions(steps: int) -> Tensor:
    return torch.rand(BATCH, steps, 3, generator=torch.Generator().manual_seed(4)) * 2 - 1


def future(model: WorldModel, state: WorldModelState) -> tuple[Tensor, Tensor]:
    """The next six frames and rewards."""
    imagined = model.imagine(state, actions(6), noise=torch.full((BATCH, 6, 4), 0.5))
    return imagined.frames, imagined.rewards


@pytest.mark.parametrize("slides", [True, False])
@pytest.mark.parametrize("known", [1, 3])
def test_known_frames_continue_as_the_transformer_reads_them_in_one_pass(
    make_model: MakeModel, slides: bool, known: int
) -> None:
    model = make_model(slides=slides)
    given, taken = frames(model, CONTEXT + known), actions(known)
    state = model.start(given, taken)
    assert torch.equal(state.frames, given[:, -CONTEXT:])
    next_action = actions(known + 1)[:, -1]
    _, _, reward = model.step(state, next_action, noise=torch.full((BATCH, 4), 0.5))
    with torch.no_grad():
        pixels = given.float().div(255).movedim(-1, -3)
        codes, features = model.tokenizer.encode_context(pixels[:, :CONTEXT])
        seen = model.tokenizer.encode_future(pixels[:, CONTEXT:], features)
    state = model.start(given, taken)
    imagined = model.imagine(state, next_action[:, None], noise=torch.full((BATCH, 1, 4), 0.5))
    tokens = model.layout.sequence(codes, torch.cat([seen, imagined.tokens], dim=1))
    with torch.no_grad():
        out = model.transformer(tokens, torch.cat([taken, next_action[:, None]], dim=1))
    assert out.rewards is not None
    expected = model.config.reward_scale.decode(out.rewards[:, -1])
    torch.testing.assert_close(reward, expected, rtol=1e-4, atol=1e-4)


def test_codes_that_the_model_imagined_itself_continue_the_same_episode(make_model: MakeModel) -> None:
    model = make_model(slides=True)
    unbroken = model.start(frames(model, CONTEXT))
    for step in range(2):
        model.step(unbroken, actions(2)[:, step], noise=torch.full((BATCH, 4), 0.5))
    resumed = model.start(frames(model, CONTEXT + 2), actions(2))
    torch.testing.assert_close(resumed.cache.cumulative_action, actions(2).sum(1))
    assert resumed.cache.remaining() == unbroken.cache.remaining()
    assert resumed.recent_codes.shape == unbroken.recent_codes.shape
    assert torch.equal(resumed.recent_actions, unbroken.recent_actions)


def test_of_more_frames_than_the_window_holds_the_newest_are_read(make_model: MakeModel) -> None:
    model, many = make_model(slides=True), WINDOW + 3
    given, taken = frames(model, CONTEXT + many), actions(many)
    newest = torch.cat([given[:, :CONTEXT], given[:, -KEPT:]], dim=1)
    long = future(model, model.start(given, taken))
    short = future(model, model.start(newest, taken[:, -KEPT:]))
    for one, other in zip(long, short, strict=True):
        assert torch.equal(one, other)


def test_a_window_that_does_not_slide_refuses_more_than_it_holds(make_model: MakeModel) -> None:
    model = make_model()
    with pytest.raises(ConfigError, match="holds 4 and does not slide"):
        model.start(frames(model, CONTEXT + WINDOW + 1), actions(WINDOW + 1))


def test_a_full_window_of_known_frames_makes_room(make_model: MakeModel) -> None:
    model = make_model(slides=True)
    state = model.start(frames(model, CONTEXT + WINDOW), actions(WINDOW))
    model.step(state, actions(1)[:, 0], noise=torch.full((BATCH, 4), 0.5))
    assert state.reanchored.all()


def test_an_action_free_model_takes_frames_alone(make_model: MakeModel) -> None:
    model = make_model(action_dim=0, reward=False)
    state, fresh = model.start(frames(model, CONTEXT + 2)), model.start(frames(model, CONTEXT))
    taken = 2 * model.layout.step_length
    assert state.cache.remaining() == [room - taken for room in fresh.cache.remaining()]


def test_frames_and_actions_that_do_not_fit_are_refused(make_model: MakeModel) -> None:
    model = make_model()
    with pytest.raises(InvalidFrames, match=r"expected uint8 frames \[batch, 4.*2 behind them, one for each action"):
        model.start(frames(model, CONTEXT + 1), actions(2))
    with pytest.raises(InvalidFrames, match="exactly 2 frames"):
        model.start(frames(model, CONTEXT + 1))
    with pytest.raises(InvalidAction, match="expected an action of shape"):
        model.start(frames(model, CONTEXT + 1), actions(1)[..., :2])
    with pytest.raises(InvalidAction, match=r"expected actions \[batch, known frames, 3\], got \[3\]"):
        model.start(frames(model, CONTEXT + 1), np.zeros(3, np.float32))
    with pytest.raises(InvalidAction, match="finite"):
        model.start(frames(model, CONTEXT + 1), actions(1) * float("nan"))


def test_where_nothing_changes_the_newest_known_frame_stays_as_it_is(make_model: MakeModel) -> None:
    model = make_model(slides=True)
    given = frames(model, CONTEXT + 1)
    state = model.start(given, actions(1))
    codes = state.recent_codes[:, -1]
    assert torch.equal(to_uint8(decode_frame(model.tokenizer, codes, state.features)), given[:, -1])
    plain = decode_frame(model.tokenizer, codes, model.start(given[:, :CONTEXT]).features)
    assert not torch.equal(to_uint8(plain), given[:, -1])


def test_where_much_changes_no_detail_of_a_known_frame_is_left(make_model: MakeModel) -> None:
    model = make_model(slides=True)
    state = model.start(frames(model, CONTEXT + 1), actions(1))
    assert state.features.shown is not None
    decoded, detail = state.features.shown.unbind(1)
    features = ContextFeatures(state.features.stored, None, torch.stack([decoded + 10, detail], dim=1))
    codes = state.recent_codes[:, -1]
    with torch.no_grad():
        plain = decode_frame(model.tokenizer, codes, ContextFeatures(state.features.stored))
        torch.testing.assert_close(decode_frame(model.tokenizer, codes, features), plain)


def test_rows_with_and_without_known_frames_are_put_together(make_model: MakeModel) -> None:
    model = make_model(slides=True)
    known = model.start(frames(model, CONTEXT + 1), actions(1))
    for target, source in ((model.start(frames(model, CONTEXT)), known), (known.fork(1), None)):
        other = source or model.start(frames(model, CONTEXT))
        expected = [state.select([row]) for row, state in enumerate((target, other))]
        target.put([1], other.select([1]))
        noise = torch.full((1, 1, 4), 0.5)
        together = model.imagine(target.select([0, 1]), actions(1), noise=noise.expand(2, 1, 4)).frames
        for row, alone in enumerate(expected):
            assert torch.equal(
                model.imagine(alone.select([0]), actions(1)[row : row + 1], noise=noise).frames[0], together[row]
            )


def test_a_saved_state_keeps_the_details_of_its_known_frame(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model(slides=True)
    state = model.start(frames(model, CONTEXT + 1), actions(1))
    state.save(tmp_path / "state.safetensors")
    restored = model.restore(tmp_path / "state.safetensors")
    for one, other in zip(future(model, state), future(model, restored), strict=True):
        assert torch.equal(one, other)
