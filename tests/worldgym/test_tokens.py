import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldgym.errors import ConfigError
from worldgym.tokens import TokenLayout

LAYOUTS = st.builds(
    TokenLayout,
    context_length=st.integers(1, 4),
    tokens_per_context_frame=st.integers(1, 9),
    tokens_per_frame=st.integers(1, 5),
    context_codes=st.integers(1, 12),
    dynamics_codes=st.integers(1, 12),
)


def codes(layout: TokenLayout, horizon: int, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    context = torch.randint(layout.context_codes, (batch, layout.context_length, layout.tokens_per_context_frame))
    return context, torch.randint(layout.dynamics_codes, (batch, horizon, layout.tokens_per_frame))


def test_the_published_layout() -> None:
    layout = TokenLayout(context_length=2)
    assert (layout.prefix_length, layout.step_length, layout.vocab_size) == (513, 17, 16386)
    assert (layout.context_slot, layout.future_slot) == (16384, 16385)
    assert layout.horizon(1024) == 30


@settings(deadline=None)
@given(LAYOUTS, st.integers(0, 4))
def test_split_is_the_inverse_of_sequence(layout: TokenLayout, horizon: int) -> None:
    context, future = codes(layout, horizon)
    ids = layout.sequence(context, future)
    assert ids.shape == (2, layout.length(horizon))
    assert 0 <= ids.min() <= ids.max() < layout.vocab_size
    for made, given_codes in zip(layout.split(ids), (context, future), strict=True):
        assert torch.equal(made, given_codes)


@settings(deadline=None)
@given(LAYOUTS, st.integers(1, 4))
def test_positions_name_what_stands_there(layout: TokenLayout, horizon: int) -> None:
    context, future = codes(layout, horizon)
    ids = layout.sequence(context, future)
    slots, last = layout.slot_positions(horizon), layout.last_positions(horizon)
    assert (ids[:, slots] == layout.future_slot).all()
    assert (ids == layout.future_slot).sum() == 2 * horizon
    assert (ids == layout.context_slot).sum() == 2 * (layout.context_length - 1)
    assert torch.equal(ids[:, last], layout.dynamics_id(future[:, :, -1]))
    inside = ids[:, layout.prefix_length :].unflatten(1, (horizon, -1))[:, :, 1:]
    assert ((inside >= layout.dynamics_ids.start) & (inside < layout.dynamics_ids.stop)).all()


@settings(deadline=None)
@given(LAYOUTS, st.integers(0, 60))
def test_slots_and_horizon_count_opened_and_complete_frames(layout: TokenLayout, positions: int) -> None:
    opened = layout.slots(positions)
    assert (layout.slot_positions(opened + 1) < positions).sum() == opened
    complete = layout.horizon(positions)
    assert (layout.last_positions(complete + 1) < positions).sum() == complete


@settings(deadline=None)
@given(LAYOUTS, st.integers(1, 3))
def test_labels_leave_out_the_context_and_the_first_slot(layout: TokenLayout, horizon: int) -> None:
    ids = layout.sequence(*codes(layout, horizon))
    labels = layout.labels(ids)
    known = layout.prefix_length + 1
    assert (labels[:, :known] == -100).all()
    assert torch.equal(labels[:, known:], ids[:, known:])


def test_a_sequence_cut_within_a_frame_is_refused() -> None:
    layout = TokenLayout(1, 4, 2, 5, 5)
    with pytest.raises(ConfigError, match=r"4 \+ n \* 3 ids, got 6"):
        layout.split(torch.zeros(1, 6, dtype=torch.int64))


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="tokens_per_frame must be at least 1, got 0"):
        TokenLayout(1, tokens_per_frame=0)
