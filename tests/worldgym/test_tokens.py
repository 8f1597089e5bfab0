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
def test_a_sequence_holds_slots_and_offset_codes(layout: TokenLayout, horizon: int) -> None:
    context, future = codes(layout, horizon)
    ids = layout.sequence(context, future)
    assert ids.shape == (2, layout.length(horizon))
    for row in range(2):
        expected = [id for frame in context[row].tolist() for id in (layout.context_slot, *frame)][1:]
        for frame in (future[row] + layout.context_codes).tolist():
            expected += [layout.future_slot, *frame]
        assert ids[row].tolist() == expected


@settings(deadline=None)
@given(LAYOUTS, st.integers(1, 4))
def test_positions_of_slots_and_last_codes(layout: TokenLayout, horizon: int) -> None:
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
@given(LAYOUTS, st.integers(0, 3))
def test_future_frames_share_embedding_positions(layout: TokenLayout, horizon: int) -> None:
    rows = layout.embedding_positions(layout.length(horizon))
    assert rows.tolist() == [
        *range(layout.prefix_length),
        *list(range(layout.prefix_length, layout.prefix_length + layout.step_length)) * horizon,
    ]


def test_positions_are_made_on_the_device_that_was_asked_for() -> None:
    layout = TokenLayout(2, 4, 2, 5, 5)
    with torch.device("meta"):
        for made in (layout.slot_positions(2), layout.last_positions(2), layout.embedding_positions(5)):
            assert made.device.type == "cpu"
    assert layout.embedding_positions(5, device="meta").device.type == "meta"
    assert layout.last_positions(5, device="meta").device.type == "meta"


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="tokens_per_frame: expected at least 1, got 0"):
        TokenLayout(1, tokens_per_frame=0)
