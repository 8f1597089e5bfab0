"""Low-rank adapters (LoRA, Hu et al. 2021) for fine-tuning a large transformer, by the library ``peft``.

The projections of attention and feed-forward layers keep their weights W and get an update B A of low rank. Heads and
action projection are trained fully, all else stays. :func:`merged` gives plain weights W + B A, which load anywhere.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from worldgym.config import WorldModelConfig
from worldgym.errors import ConfigError, DependencyNotInstalled
from worldgym.storage.tensors import Tensors
from worldgym.training.seeding import seeded_rng
from worldgym.transformer.transformer import Transformer

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BASE, LEFT, RIGHT = ".base_layer.weight", ".lora_B.default.weight", ".lora_A.default.weight"
"""Ends of the names that ``peft`` gives to W, B and A."""


def add_adapters(model: Transformer, rank: int) -> None:
    """Give a transformer adapters in place, and freeze what is not trained.

    Args:
        model: a plain transformer. Random numbers are those of PyTorch's global generator.
        rank: of the updates.

    Raises:
        ConfigError: if the rank is not below the smallest size of a projection.
        DependencyNotInstalled: without ``peft``.
    """
    config = model.config
    smallest = min(config.key_value_heads * config.head_dim, config.mlp_size)
    if not 1 <= rank < smallest:
        raise ConfigError(
            f"lora_rank: expected a number from 1 to {smallest - 1}, below the size of the smallest projection, got "
            f"{rank}"
        )
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise DependencyNotInstalled("adapters need peft; run `pip install worldgym[lora]`") from error
    model.requires_grad_(False)
    # With alpha equal to the rank, the update is B A itself.
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(PROJECTIONS)), model)
    for layer in (*model.heads.values(), model.action_linear):
        if layer is not None:
            layer.requires_grad_(True)


@torch.no_grad()
def merged(state: Mapping[str, Tensor]) -> Tensors:
    """The plain weights of a transformer with adapters, from its state dict; others stay as they are."""
    plain = {name: value for name, value in state.items() if not name.endswith((BASE, LEFT, RIGHT))}
    for name, value in state.items():
        if name.endswith(BASE):
            layer = name.removesuffix(BASE)
            plain[f"{layer}.weight"] = value + state[layer + LEFT] @ state[layer + RIGHT]
    return plain


def plain_transformer(model: Transformer, config: WorldModelConfig) -> Transformer:
    """A copy in evaluation mode with plain weights; the model itself if it has no adapters."""
    state = model.eval().state_dict()
    if not any(name.endswith(BASE) for name in state):
        return model
    with seeded_rng(0, torch.device("cpu")):  # all weights are replaced: no random number of the caller's is used
        plain = Transformer.build(config)
    plain.to(next(model.parameters()).device).load_state_dict(merged(state))
    return plain.eval().requires_grad_(False)
