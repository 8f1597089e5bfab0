import dataclasses

import pytest
import torch

from worldgym.config import WorldModelConfig
from worldgym.training.encoded import EncodedBatch
from worldgym.training.heads import fit_heads, logistic, ridge
from worldgym.transformer.transformer import Transformer


def test_ridge_finds_the_line() -> None:
    features = torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight, bias = ridge(features, features @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + 3)
    torch.testing.assert_close(weight, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), atol=0.01, rtol=0)
    assert bias.item() == pytest.approx(3, abs=0.01)


def test_logistic_regression_is_calibrated() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4000, 3, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 10.0, 0.1]) + 2
    logits = features @ torch.tensor([1.0, -0.1, 5.0], dtype=torch.float64) - 16
    events = (torch.rand(4000, generator=generator, dtype=torch.float64) < logits.sigmoid()).double()
    weight, bias = logistic(features, events)
    predicted = (features @ weight + bias).sigmoid()
    assert predicted.mean().item() == pytest.approx(events.mean().item(), abs=1e-4)
    assert (predicted - logits.sigmoid()).abs().mean() < 0.02


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_event_that_never_or_always_occurs_has_a_finite_logit(value: float) -> None:
    features = torch.randn(100, 3, dtype=torch.float64)
    weight, bias = logistic(features, torch.full((100,), value, dtype=torch.float64))
    assert not weight.any()
    assert abs(bias.sigmoid().item() - value) == pytest.approx(0.005)


def test_steps_behind_an_end_teach_terminations_alone(tiny_config: WorldModelConfig) -> None:
    config = dataclasses.replace(tiny_config, success=True, termination=True)
    generator, (rows, steps) = torch.Generator().manual_seed(0), (8, 4)
    layout = config.layout
    inside = torch.arange(steps).expand(rows, steps) < 2
    batch = EncodedBatch(
        torch.randint(16, (rows, 2, layout.tokens_per_context_frame), generator=generator),
        torch.randint(16, (rows, steps, layout.tokens_per_frame), generator=generator),
        torch.randn(rows, steps, 4, generator=generator),
        torch.randn(rows, steps, generator=generator),
        torch.rand(rows, steps, generator=generator) < 0.5,
        ~inside,
        inside.float(),
    )
    tokens = layout.sequence(batch.context, batch.future)

    def fitted(ended: torch.Tensor | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = Transformer.build(config)
        fit_heads(model, [(batch._replace(ended=ended), tokens)], config.reward_scale)
        return {name: head.weight.detach() for name, head in model.heads.items()}

    without, behind = fitted(None), fitted(~inside)
    for name in ("reward", "success"):
        torch.testing.assert_close(without[name], behind[name])
    assert not without["termination"].any()  # it never ended inside
    assert behind["termination"].any()
