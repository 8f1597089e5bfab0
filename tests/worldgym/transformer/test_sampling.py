import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldgym.transformer.sampling import entropy, sample_top_k

LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12)


@settings(deadline=None)
@given(LOGITS, st.integers(1, 20), st.floats(0.05, 5), st.floats(0, 1, exclude_max=True, width=32))
def test_the_index_is_always_in_the_top_k(row: list[float], top_k: int, temperature: float, uniform: float) -> None:
    logits = torch.tensor([row])
    drawn = sample_top_k(logits, torch.tensor([uniform]), temperature, top_k)
    smallest = logits[0].topk(min(top_k, len(row))).values[-1]
    assert logits[0, drawn.item()] >= smallest


@settings(deadline=None)
@given(LOGITS, st.floats(0, 1, exclude_max=True, width=32))
def test_top_1_is_argmax(row: list[float], uniform: float) -> None:
    logits = torch.tensor([row])
    assert torch.equal(sample_top_k(logits, torch.tensor([uniform]), 1.0, 1), logits.argmax(1))


@settings(deadline=None, max_examples=30)
@given(LOGITS, st.integers(2, 12), st.floats(0.3, 3))
def test_frequencies_follow_the_softmax(row: list[float], top_k: int, temperature: float) -> None:
    count = 4096
    uniforms = (torch.arange(count) + 0.5) / count  # evenly spaced, so that the result is not random
    drawn = sample_top_k(torch.tensor([row]).expand(count, -1), uniforms, temperature, top_k)
    values, indices = torch.tensor(row).topk(min(top_k, len(row)))
    expected = torch.zeros(len(row)).scatter(0, indices, (values / temperature).softmax(0))
    share = torch.bincount(drawn, minlength=len(row)) / count
    torch.testing.assert_close(share, expected, atol=1.5 / count, rtol=1e-3)


def test_rows_use_their_own_uniform() -> None:
    torch.manual_seed(0)
    logits, uniforms = torch.randn(5, 40), torch.rand(5)
    together = sample_top_k(logits, uniforms, 0.8, 10)
    alone = [sample_top_k(logits[row : row + 1], uniforms[row : row + 1], 0.8, 10) for row in range(5)]
    assert torch.equal(together, torch.cat(alone))


def test_the_largest_uniform_gives_a_possible_index() -> None:
    below_one = torch.tensor([1.0]).nextafter(torch.tensor([0.0]))
    logits = torch.tensor([[0.0, 0.0, 0.0, -200.0, -300.0]])
    assert sample_top_k(logits, below_one, 1.0, 5).item() < 3


def test_entropy_is_in_nats() -> None:
    logits = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, -1e9, -1e9, -1e9]])
    torch.testing.assert_close(entropy(logits), torch.tensor([4.0, 1.0]).log())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_deterministic_algorithms_on_a_gpu() -> None:
    logits, uniforms = torch.randn(5, 40, device="cuda"), torch.rand(5, device="cuda")
    wanted = sample_top_k(logits, uniforms, 0.8, 10)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(sample_top_k(logits, uniforms, 0.8, 10), wanted)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
