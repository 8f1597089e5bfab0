"""Gradient checkpointing and torch.compile change what training costs, not what it computes."""

import pytest
import torch
from torch import Tensor

from worldgym.config import TransformerConfig
from worldgym.tokens import TokenLayout
from worldgym.transformer.transformer import Transformer


def gradients(checkpointing: bool, backend: str | None = None, dropout: float = 0.2) -> dict[str, Tensor]:
    """Of a loss of a small transformer in training mode."""
    torch.manual_seed(0)
    config = TransformerConfig(2, 4, 2, hidden_size=32, mlp_size=48, max_positions=80)
    model = Transformer(config, TokenLayout(1, 16, 4, 20, 24), action_dim=3, reward=True).train()
    model.dropout, model.checkpointing = dropout, checkpointing
    if backend is not None:
        model.compile(backend=backend)
    out = model(torch.randint(0, 16, (2, 31)), torch.randn(2, 3, 3), logits_from=16)
    assert out.rewards is not None
    (out.logits.square().mean() + out.rewards.mean()).backward()
    return {name: part.grad for name, part in model.named_parameters() if part.grad is not None}


def test_checkpointing_gives_the_plain_gradient_with_dropout() -> None:
    plain, found = gradients(False), gradients(True)
    assert plain.keys() == found.keys()
    assert all(torch.equal(plain[name], found[name]) for name in plain)
    assert not torch.equal(plain["llm.lm_head.weight"], gradients(False, dropout=0.0)["llm.lm_head.weight"])


def test_checkpointing_keeps_less_for_the_gradient() -> None:
    def saved(checkpointing: bool) -> int:
        sizes: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            gradients(checkpointing)
        return sum(sizes)

    assert saved(True) < 0.5 * saved(False)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])  # half a minute
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # of PyTorch itself
def test_a_compiled_transformer_gives_the_plain_gradient(backend: str) -> None:
    plain, found = gradients(False, dropout=0.0), gradients(False, backend, dropout=0.0)
    assert plain.keys() == found.keys()
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)
