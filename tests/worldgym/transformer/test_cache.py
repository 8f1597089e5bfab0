from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worldgym import native
from worldgym.config import TransformerConfig
from worldgym.tokens import TokenLayout
from worldgym.transformer.cache import KeyValueCache
from worldgym.transformer.decoding.frame import ImaginedFrame, imagine_frame, read_context
from worldgym.transformer.transformer import StepValues, Transformer

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


@pytest.fixture(params=["compiled", "plain"], autouse=True)
def _both_paths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "plain":
        monkeypatch.setattr(native, "library", lambda: None)
    elif native.library() is None:
        pytest.skip("needs a C compiler")


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
    values = StepValues(frame.reward[chosen], None, None, None)
    return ImaginedFrame(frame.codes[chosen], values, frame.uncertainty[chosen])


def test_the_cache_gives_the_results_of_the_forward_pass(transformer: Transformer) -> None:
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


def test_rows_at_different_positions_are_independent(transformer: Transformer) -> None:
    """Row 1 starts anew after one frame, row 2 after two; the past of row 1 is longer than its new start."""
    codes, actions, noise = context(), torch.randn(BATCH, HORIZON, 3), torch.rand(BATCH, HORIZON, 4)
    cache, frames = read_context(transformer, codes), []
    for t in range(HORIZON):
        if t in (1, 2):
            cache.put([t], read_context(transformer, codes[t : t + 1]))
        frames.append(imagine_frame(transformer, cache, actions[:, t], noise[:, t], 0.9, 5))
    assert not cache.aligned
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


def test_remaining_positions_are_counted_per_row(transformer: Transformer) -> None:
    cache = read_context(transformer, context(2), positions=30)
    assert cache.remaining() == [30 - LAYOUT.prefix_length] * 2
    single = read_context(transformer, context(1), positions=30)
    imagine(transformer, single, torch.randn(1, 2, 3), torch.rand(1, 2, 4))
    cache.put([1], single)
    assert cache.remaining() == [11, 1]


def test_an_action_free_model_without_reward(transformer: Transformer) -> None:
    bare = Transformer(CONFIG, LAYOUT).eval()
    frame = imagine_frame(bare, read_context(bare, context()), None, torch.rand(BATCH, 4))
    assert frame.reward is None
    assert frame.codes.shape == (BATCH, 4)
    assert 0 <= frame.codes.min() <= frame.codes.max() < LAYOUT.dynamics_codes


def frame_of(transformer: Transformer, cache: KeyValueCache, seed: int) -> ImaginedFrame:
    """One frame; a row's action and noise depend on the seed and its number."""
    generator = torch.Generator().manual_seed(seed)
    actions, noise = torch.randn(64, 3, generator=generator), torch.rand(64, 4, generator=generator)
    batch = len(cache.lengths)
    return imagine_frame(transformer, cache, actions[:batch], noise[:batch], 0.9, 5)


def trunk_of(transformer: Transformer) -> KeyValueCache:
    """Three rows, the second after two frames, the others after one."""
    cache = read_context(transformer, context())
    frame_of(transformer, cache, 0)
    ahead = cache.select([1])
    frame_of(transformer, ahead, 1)
    cache.put([1], ahead)
    return cache


def copies(cache: KeyValueCache, count: int) -> KeyValueCache:
    return cache.select([row for row in range(len(cache.lengths)) for _ in range(count)])


def frames_of(transformer: Transformer, cache: KeyValueCache, count: int = 2) -> list[ImaginedFrame]:
    return [frame_of(transformer, cache, 10 + t) for t in range(count)]


def assert_all_equal(got: list[ImaginedFrame], wanted: list[ImaginedFrame]) -> None:
    """Exactly in compiled code, else up to rounding."""
    for one, other in zip(got, wanted, strict=True):
        assert_equal(one, other)
        if native.library() is not None:
            assert torch.equal(one.uncertainty, other.uncertainty)


def test_a_fork_equals_copies(transformer: Transformer) -> None:
    trunk = trunk_of(transformer)
    wanted = frames_of(transformer, copies(trunk, 4))
    branches = trunk.fork(4)
    assert branches.prefix is not None
    assert branches.lengths == [length for length in trunk.lengths for _ in range(4)]
    assert branches.own_lengths() == [0] * 12
    assert_all_equal(frames_of(transformer, branches), wanted)


def test_branches_share_their_past(transformer: Transformer) -> None:
    trunk = trunk_of(transformer)
    before = trunk.nbytes
    branches = trunk.fork(64)
    assert branches.prefix is not None
    shared = {tensor.data_ptr() for tensor in branches.prefix.keys + branches.prefix.values}
    assert shared == {tensor.data_ptr() for tensor in trunk.keys + trunk.values}
    left = CONFIG.max_positions - min(trunk.lengths)
    assert branches.nbytes == before + 64 * before * left // CONFIG.max_positions


def test_a_fork_of_a_fork(transformer: Transformer) -> None:
    trunk = trunk_of(transformer)
    separate = copies(trunk, 2)
    frame_of(transformer, separate, 5)
    wanted = frames_of(transformer, copies(separate, 3), 1)
    branches = trunk.fork(2)
    frame_of(transformer, branches, 5)
    assert_all_equal(frames_of(transformer, branches.fork(3), 1), wanted)
    assert_all_equal(frames_of(transformer, branches, 1), frames_of(transformer, separate, 1))


@pytest.mark.parametrize("chosen", [[0, 4], [2, 3], [5, 2, 2], [3, 1], [2]], ids=str)
def test_some_rows_of_a_fork(transformer: Transformer, chosen: list[int]) -> None:
    """Among them rows whose shared past is the shorter one: they must not use the rest of the longer one."""
    trunk = trunk_of(transformer)
    separate, branches = copies(trunk, 2), trunk.fork(2)
    frame_of(transformer, trunk, 3)  # continues after the shared past
    assert_all_equal(frames_of(transformer, branches.select(chosen)), frames_of(transformer, separate.select(chosen)))
    for cache in (separate, branches):
        frame_of(transformer, cache, 5)
    assert_all_equal(
        frames_of(transformer, branches.select(chosen), 1), frames_of(transformer, separate.select(chosen), 1)
    )


def test_trunk_and_branches_are_independent(transformer: Transformer) -> None:
    trunk, fresh = trunk_of(transformer), read_context(transformer, context(1))
    alone, separate = trunk.select(range(3)), copies(trunk, 2)
    branches = trunk.fork(2)
    frame_of(transformer, trunk, 3)
    frame_of(transformer, alone, 3)
    assert_all_equal([frame_of(transformer, branches, 4)], [frame_of(transformer, separate, 4)])
    late, again = trunk.fork(2), copies(trunk, 2)
    for cache in (trunk, alone):
        cache.put([1], fresh)
    assert_all_equal([frame_of(transformer, trunk, 5)], [frame_of(transformer, alone, 5)])
    assert_all_equal([frame_of(transformer, branches, 6)], [frame_of(transformer, separate, 6)])
    assert_all_equal([frame_of(transformer, late, 6)], [frame_of(transformer, again, 6)])


def test_a_branch_may_start_anew(transformer: Transformer) -> None:
    """``put`` on branches copies their past; other branches of it do not change."""
    trunk, fresh = trunk_of(transformer), read_context(transformer, context(2))
    separate, branches = copies(trunk, 2), trunk.fork(2)
    sisters = branches.select(range(6))
    for cache in (separate, branches):
        frame_of(transformer, cache, 3)
        cache.put([4, 1], fresh)
        assert cache.lengths[4] == cache.lengths[1] == LAYOUT.length(0)
    assert branches.prefix is None
    assert_all_equal([frame_of(transformer, branches, 4)], [frame_of(transformer, separate, 4)])
    assert_all_equal([frame_of(transformer, sisters, 5)], [frame_of(transformer, copies(trunk, 2), 5)])


def test_a_branch_replaces_its_trunk(transformer: Transformer) -> None:
    trunk = trunk_of(transformer)
    branches, wanted = trunk.fork(4), copies(trunk, 4)
    for cache in (branches, wanted):
        frame_of(transformer, cache, 3)
    trunk.put([0, 1, 2], branches.select([3, 4, 9]))
    assert_all_equal([frame_of(transformer, trunk, 4)], [frame_of(transformer, wanted.select([3, 4, 9]), 4)])
    assert_all_equal([frame_of(transformer, branches, 5)], [frame_of(transformer, wanted, 5)])


def test_a_full_past_may_be_forked(transformer: Transformer) -> None:
    """A branch without free positions can still get a new past."""
    trunk = read_context(transformer, context(), LAYOUT.length(1))
    frame_of(transformer, trunk, 0)
    branches = trunk.fork(2)
    assert branches.remaining() == [0] * 6
    fresh = read_context(transformer, context(6), LAYOUT.length(1))
    branches.put(range(6), fresh)
    assert_all_equal([frame_of(transformer, branches, 1)], [frame_of(transformer, fresh, 1)])


@dataclass
class Pool:
    """Caches that share pasts, each with one that shares nothing."""

    transformer: Transformer
    pairs: list[tuple[KeyValueCache, KeyValueCache]]

    def step(self, which: int, seed: int, other: int) -> None:
        shared, apart = self.pairs[which]
        if min(shared.remaining()) >= LAYOUT.step_length:
            assert_all_equal([frame_of(self.transformer, shared, seed)], [frame_of(self.transformer, apart, seed)])

    def fork(self, which: int, seed: int, other: int) -> None:
        shared, apart = self.pairs[which]
        if len(shared.lengths) < 8:
            self.pairs.append((shared.fork(2), copies(apart, 2)))

    def select(self, which: int, seed: int, other: int) -> None:
        shared, apart = self.pairs[which]
        chosen = [(seed * 7 + 3 * row) % len(shared.lengths) for row in range(1 + seed % 3)]
        self.pairs.append((shared.select(chosen), apart.select(chosen)))

    def put(self, which: int, seed: int, other: int) -> None:
        (shared, apart), (given, given_apart) = self.pairs[which], self.pairs[other]
        count = min(len(shared.lengths), len(given.lengths), 1 + seed % 2)
        chosen = [(seed + row) % len(shared.lengths) for row in range(count)]
        source = [(seed // 2 + row) % len(given.lengths) for row in range(count)]
        shared.put(chosen, given.select(source))
        apart.put(chosen, given_apart.select(source))

    def start(self, which: int, seed: int, other: int) -> None:
        fresh = read_context(self.transformer, context(1))
        for cache in self.pairs[which]:
            cache.put([seed % len(cache.lengths)], fresh)


ACTS: list[Callable[[Pool, int, int, int], None]] = [Pool.step, Pool.fork, Pool.select, Pool.put, Pool.start]


@settings(deadline=None, max_examples=15, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from([*ACTS, Pool.step, Pool.fork]), *[st.integers(0, 20)] * 3), min_size=8, max_size=16
    )
)
def test_random_sequences_of_operations(
    transformer: Transformer, acts: list[tuple[Callable[[Pool, int, int, int], None], int, int, int]]
) -> None:
    trunk = trunk_of(transformer)
    pool = Pool(transformer, [(trunk, trunk.select(range(3)))])
    for act, which, seed, other in acts:
        act(pool, which % len(pool.pairs), seed, other % len(pool.pairs))
    for which in range(len(pool.pairs)):
        pool.step(which, 30, which)
