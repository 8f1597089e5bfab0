import pytest
import torch

from worldgym.errors import CheckpointError
from worldgym.tokenizer.base import codes_perplexity
from worldgym.tokenizer.quantizer import Quantized, VectorQuantizer, load_state_for_resume, state_for_resume


def clusters(count: int, dim: int = 4, clusters: int = 8, seed: int = 0) -> torch.Tensor:
    """Points around a few well-separated centres, ``[count, dim]``; the centres are the same for every seed."""
    centres = 10 * torch.randn(clusters, dim, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(clusters, (count,), generator=generator)
    return centres[chosen] + 0.1 * torch.randn(count, dim, generator=generator)


def fit(quantizer: VectorQuantizer, latents: torch.Tensor) -> Quantized:
    """A forward pass in training mode whose loss was found to be finite."""
    result: Quantized = quantizer(latents)
    quantizer.update()
    return result


def loaded(codebook: torch.Tensor, **options: float) -> VectorQuantizer:
    quantizer = VectorQuantizer(*codebook.shape, **options)  # type: ignore[arg-type]
    quantizer.load_state_dict({"embedding.weight": codebook})
    return quantizer


def test_codes_are_nearest_neighbours_and_look_up_their_vectors() -> None:
    quantizer = loaded(torch.randn(11, 3))
    latents = torch.randn(2, 5, 3)
    nearest = torch.cdist(latents, quantizer.embedding.weight[None]).argmin(-1)
    torch.testing.assert_close(quantizer.codes(latents), nearest)
    torch.testing.assert_close(quantizer.lookup(nearest), quantizer.embedding.weight[nearest])


def test_every_code_is_its_own_nearest_neighbour() -> None:
    quantizer = loaded(torch.randn(20, 4))
    codes = torch.arange(20).view(4, 5)
    torch.testing.assert_close(quantizer.codes(quantizer.lookup(codes)), codes)


def test_gradients_pass_straight_through_and_the_commitment_pulls_towards_the_code() -> None:
    quantizer = loaded(torch.tensor([[0.0], [10.0]])).eval()
    latents = torch.tensor([[1.0], [7.0]], requires_grad=True)
    result = quantizer(latents)
    torch.testing.assert_close(result.latents.detach(), torch.tensor([[0.0], [10.0]]))
    result.latents.sum().backward(retain_graph=True)
    torch.testing.assert_close(latents.grad, torch.ones(2, 1))
    latents.grad = None
    torch.testing.assert_close(result.commit_loss.detach(), torch.tensor(2 * (1 + 9) / 2))
    result.commit_loss.backward()
    torch.testing.assert_close(latents.grad, torch.tensor([[1.0], [-3.0]]))
    assert not quantizer.embedding.weight.requires_grad


def test_evaluation_and_encoding_do_not_change_the_codebook() -> None:
    quantizer = VectorQuantizer(8, 4)
    before = quantizer.embedding.weight.clone()
    quantizer.codes(clusters(100))
    quantizer.eval()(clusters(100))
    quantizer.update()
    assert torch.equal(quantizer.embedding.weight, before)
    assert not quantizer.usage.any()


def test_the_first_training_batch_initialises_a_new_codebook_with_its_latents() -> None:
    quantizer = VectorQuantizer(16, 4, decay=1.0)
    latents = clusters(100)
    result = fit(quantizer, latents)
    codebook = quantizer.embedding.weight
    sources = (codebook[:, None] == latents).all(2)
    assert torch.equal(sources.sum(1), torch.ones(16, dtype=torch.int64))
    assert sources.any(0).sum() == 16
    assert torch.equal(result.codes, quantizer.codes(latents))


def test_a_batch_smaller_than_the_codebook_is_completed_by_the_next() -> None:
    quantizer = VectorQuantizer(16, 4)
    fit(quantizer, clusters(10, seed=1))
    assert int((quantizer.usage > 0).sum()) == 10
    fit(quantizer, clusters(10, seed=2))
    assert bool((quantizer.usage > 0).all())


def test_loaded_codes_are_not_initialised_anew() -> None:
    codebook = torch.randn(16, 4)
    quantizer = loaded(codebook, decay=1.0)
    fit(quantizer, clusters(100))
    assert torch.equal(quantizer.embedding.weight, codebook)


def test_update_moves_a_code_to_the_mean_of_its_latents() -> None:
    quantizer = loaded(torch.tensor([[0.0], [10.0]]), decay=0.5)
    fit(quantizer, torch.tensor([[1.0], [3.0], [9.0]]))
    # usage 1 -> 1.5 and 1; sums 0.5 * 0 + 0.5 * 4 = 2 and 0.5 * 10 + 0.5 * 9
    torch.testing.assert_close(quantizer.usage, torch.tensor([1.5, 1.0]))
    torch.testing.assert_close(quantizer.embedding.weight.detach(), torch.tensor([[2 / 1.5], [9.5]]))


def everything(quantizer: VectorQuantizer) -> list[torch.Tensor]:
    return [quantizer.embedding.weight.clone(), quantizer.usage.clone(), quantizer.generator.get_state()]


@pytest.mark.parametrize("used", [False, True], ids=["new codes", "used codes"])
def test_nothing_changes_before_the_update(used: bool) -> None:
    """A trainer that finds the loss not finite must be able to leave the codebook as it was."""
    quantizer = VectorQuantizer(16, 4)
    if used:
        fit(quantizer, clusters(64))
    before = everything(quantizer)
    quantizer(torch.full((64, 4), float("nan")))
    quantizer(clusters(64, seed=1))
    assert all(map(torch.equal, everything(quantizer), before))
    quantizer.update()
    after = everything(quantizer)
    assert not torch.equal(after[0], before[0])
    quantizer.update()  # once per forward pass
    assert all(map(torch.equal, everything(quantizer), after))


def test_a_forward_pass_without_update_leaves_no_trace() -> None:
    straight, interrupted = VectorQuantizer(16, 4), VectorQuantizer(16, 4)
    interrupted.load_state_dict(straight.state_dict())
    interrupted.usage.zero_()
    for step in range(4):
        fit(straight, clusters(20, seed=step))
        interrupted(torch.full((20, 4), float("inf")))
        fit(interrupted, clusters(20, seed=step))
    assert all(map(torch.equal, everything(straight), everything(interrupted)))


def test_dead_codes_are_revived_on_latents_of_the_batch() -> None:
    far = torch.full((8, 4), 1000.0) + torch.arange(8)[:, None]
    quantizer = loaded(far, decay=0.5, dead_below=0.1)
    for step in range(10):
        fit(quantizer, clusters(64, seed=step))
    assert quantizer.embedding.weight.abs().max() < 100


def test_revival_can_be_switched_off() -> None:
    far = torch.full((8, 4), 1000.0) + 100 * torch.arange(8)[:, None]
    quantizer = loaded(far, decay=0.5, dead_below=0.0)
    for step in range(10):
        fit(quantizer, clusters(64, seed=step))
    assert torch.equal(quantizer.embedding.weight[1:], far[1:])


def test_new_codes_are_placed_far_from_other_codes() -> None:
    crowd, few = torch.zeros(1000, 4), 5 * torch.eye(4)
    quantizer = VectorQuantizer(5, 4, decay=1.0)
    fit(quantizer, torch.cat([crowd + 0.01 * torch.randn(1000, 4, generator=torch.Generator().manual_seed(0)), few]))
    codebook = quantizer.embedding.weight
    assert torch.cdist(few, codebook).amin(1).max() == 0
    assert codebook.norm(dim=1).min() < 0.1


def test_perplexity_rises_from_a_collapsed_start() -> None:
    quantizer = loaded(torch.full((8, 4), 1000.0) + torch.arange(8)[:, None], decay=0.9)
    collapsed = codes_perplexity(quantizer.codes(clusters(256)), 8)
    for step in range(200):
        fit(quantizer, clusters(256, seed=step))
    trained = codes_perplexity(quantizer.codes(clusters(256)), 8)
    assert collapsed == pytest.approx(1.0)
    assert trained > 4


def test_half_precision_latents_under_autocast() -> None:
    quantizer = VectorQuantizer(16, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = quantizer(clusters(64).bfloat16())
    assert result.latents.dtype == torch.bfloat16
    assert result.commit_loss.dtype == quantizer.embedding.weight.dtype == torch.float32


def trained(quantizer: VectorQuantizer, steps: range) -> torch.nn.Module:
    for step in steps:
        fit(quantizer, clusters(40, seed=step))
    return torch.nn.Sequential(quantizer)


def test_resuming_is_exact() -> None:
    def fresh() -> VectorQuantizer:
        torch.manual_seed(0)
        return VectorQuantizer(32, 4, decay=0.7, dead_below=0.5)

    straight = trained(fresh(), range(20))
    first, resumed = trained(fresh(), range(8)), fresh()
    resumed.load_state_dict({"embedding.weight": first.state_dict()["0.embedding.weight"]})
    load_state_for_resume(torch.nn.Sequential(resumed), state_for_resume(first))
    second = trained(resumed, range(8, 20))
    assert list(first.state_dict()) == ["0.embedding.weight"]
    assert torch.equal(straight.state_dict()["0.embedding.weight"], second.state_dict()["0.embedding.weight"])
    assert not torch.equal(first.state_dict()["0.embedding.weight"], second.state_dict()["0.embedding.weight"])


def test_a_given_generator_decides_the_draws() -> None:
    def drawn(seed: int) -> torch.Tensor:
        quantizer = VectorQuantizer(8, 4, generator=torch.Generator().manual_seed(seed))
        fit(quantizer, clusters(64))
        return quantizer.embedding.weight

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_state_of_another_model_is_refused_by_name() -> None:
    module = torch.nn.Sequential(VectorQuantizer(8, 4))
    with pytest.raises(CheckpointError, match=r"expected .*0\.usage.* got \['other\.usage'\]"):
        load_state_for_resume(module, {"other.usage": torch.ones(8)})
    with pytest.raises(CheckpointError, match=r"0\.usage: expected 8 codes, got 9"):
        load_state_for_resume(module, {**state_for_resume(module), "0.usage": torch.ones(9)})


def test_a_module_built_on_the_meta_device_can_be_trained() -> None:
    with torch.device("meta"):
        quantizer = VectorQuantizer(8, 4)
    quantizer.load_state_dict({"embedding.weight": torch.randn(8, 4)}, assign=True)
    fit(quantizer, clusters(64))
    assert not quantizer.embedding.weight.requires_grad
    assert bool(torch.isfinite(quantizer.embedding.weight).all())
