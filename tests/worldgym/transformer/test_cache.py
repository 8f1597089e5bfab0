from collections.abc import Iterator

import pytest
import torch

from worldgym.config import TransformerConfig
from worldgym.tokens import TokenLayout
from worldgym.transformer.cache import KeyValueCache
from worldgym.transformer.imagine import ImaginedFrame, imagine_frame, read_context
from worldgym.transformer.llama import Transformer

LAYOUT = TokenLayout(
    context_length=2, tokens_per_context_frame=9, tokens_per_frame=4, context_codes=11, dynamics_codes=13
)
CONFIG = TransformerConfig(
    layers=3,
    heads=4,
    key_value_heads=2,
    hidden_size=32,
    mlp_size=48,
    max_positions=50,
    cumulative_actions=True,
    place_embeddings=True,
)
HORIZON, BATCH = 4, 3


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def transformer() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(CONFIG, LAYOUT, action_dim=3, reward=True).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def context(batch: int = BATCH) -> torch.Tensor:
    return torch.randint(11, (batch, LAYOUT.context_length, LAYOUT.tokens_per_context_frame))


def imagine(
    transformer: Transformer, cache: KeyValueCache, actions: torch.Tensor, noise: torch.Tensor
) -> list[ImaginedFrame]:
    return [imagine_frame(transformer, cache, actions[:, t], noise[:, t], 0.9, 5) for t in range(actions.shape[1])]


def assert_equal(got: ImaginedFrame, wanted: ImaginedFrame) -> None:
    assert torch.equal(got.codes, wanted.codes)
    torch.testing.assert_close(got.reward, wanted.reward, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got.uncertainty, wanted.uncertainty, atol=1e-4, rtol=1e-4)


def rows(frame: ImaginedFrame, chosen: list[int]) -> ImaginedFrame:
    assert frame.reward is not None
    return ImaginedFrame(frame.codes[chosen], frame.reward[chosen], frame.uncertainty[chosen])


def test_the_cache_changes_nothing(transformer: Transformer) -> None:
    codes, actions = context(), torch.randn(BATCH, HORIZON, 3)
    frames = [
        imagine_frame(transformer, cache, actions[:, t], torch.rand(BATCH, 4), top_k=1)
        for cache in [read_context(transformer, codes)]
        for t in range(HORIZON)
    ]
    future = torch.stack([frame.codes for frame in frames], dim=1)
    out = transformer(LAYOUT.sequence(codes, future), actions, logits_from=LAYOUT.prefix_length)
    logits = out.logits.unflatten(1, (HORIZON, -1))[:, :, :-1, LAYOUT.dynamics_ids]
    assert torch.equal(logits.argmax(-1), future)
    rewards = torch.stack([frame.reward for frame in frames if frame.reward is not None], dim=1)
    torch.testing.assert_close(rewards, out.rewards, atol=1e-4, rtol=1e-4)
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean(-1)
    made = torch.stack([frame.uncertainty for frame in frames], dim=1)
    torch.testing.assert_close(made, entropy, atol=1e-4, rtol=1e-4)


def test_a_batch_is_its_rows(transformer: Transformer) -> None:
    codes, actions, noise = context(), torch.randn(BATCH, HORIZON, 3), torch.rand(BATCH, HORIZON, 4)
    together = imagine(transformer, read_context(transformer, codes), actions, noise)
    for row in range(BATCH):
        one = slice(row, row + 1)
        alone = imagine(transformer, read_context(transformer, codes[one]), actions[one], noise[one])
        for got, wanted in zip(alone, together, strict=True):
            assert_equal(got, rows(wanted, [row]))


def test_rows_at_different_positions_are_as_if_alone(transformer: Transformer) -> None:
    """Row 1 starts anew after one frame, row 2 after two; the past of row 1 is longer than its new start."""
    codes, actions, noise = context(), torch.randn(BATCH, HORIZON, 3), torch.rand(BATCH, HORIZON, 4)
    cache, frames = read_context(transformer, codes), []
    for t in range(HORIZON):
        if t in (1, 2):
            cache.put([t], read_context(transformer, codes[t : t + 1]))
        frames.append(imagine_frame(transformer, cache, actions[:, t], noise[:, t], 0.9, 5))
    assert not cache.even
    assert cache.lengths == [LAYOUT.length(4), LAYOUT.length(3), LAYOUT.length(2)]
    for row in range(BATCH):
        one = slice(row, row + 1)
        alone = read_context(transformer, codes[one])
        for got, wanted in zip(
            imagine(transformer, alone, actions[one, row:], noise[one, row:]), frames[row:], strict=True
        ):
            assert_equal(got, rows(wanted, [row]))


def test_select_copies(transformer: Transformer) -> None:
    cache = read_context(transformer, context())
    chosen = cache.select([2, 0])
    before = cache.keys[0].clone()
    imagine(transformer, chosen, torch.randn(2, 1, 3), torch.rand(2, 1, 4))
    assert torch.equal(cache.keys[0], before)
    assert torch.equal(chosen.keys[0][:, :, : LAYOUT.prefix_length], before[[2, 0], :, : LAYOUT.prefix_length])
    assert chosen.lengths == [LAYOUT.length(1)] * 2


def test_room_is_counted_per_row(transformer: Transformer) -> None:
    cache = read_context(transformer, context(2), positions=30)
    assert cache.room() == [30 - LAYOUT.prefix_length] * 2
    single = read_context(transformer, context(1), positions=30)
    imagine(transformer, single, torch.randn(1, 2, 3), torch.rand(1, 2, 4))
    cache.put([1], single)
    assert cache.room() == [11, 1]


def test_an_action_free_model_without_reward(transformer: Transformer) -> None:
    bare = Transformer(CONFIG, LAYOUT).eval()
    frame = imagine_frame(bare, read_context(bare, context()), None, torch.rand(BATCH, 4))
    assert frame.reward is None
    assert frame.codes.shape == (BATCH, 4)
    assert 0 <= frame.codes.min() <= frame.codes.max() < LAYOUT.dynamics_codes
