"""World models at the start of training: fresh weights, or an action-free checkpoint with an action projection."""

import copy
import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from worldgym.config import TokenizerConfig, WorldModelConfig
from worldgym.data.recordings import Recordings
from worldgym.data.summary import check_held_out, summaries
from worldgym.errors import ConfigError
from worldgym.isolation import torch_defaults
from worldgym.pretrained import load
from worldgym.storage.tensors import digest
from worldgym.tokenizer import build_tokenizer
from worldgym.tokenizer.base import Tokenizer
from worldgym.training.adapt import adapted_tokenizer, adapted_transformer
from worldgym.training.seeding import seeded_rng
from worldgym.transformer.transformer import INIT_STD, Transformer
from worldgym.world_model import WorldModel


@torch_defaults()
def fresh_world_model(config: WorldModelConfig, seed: int = 0) -> WorldModel:
    """An untrained world model on the CPU.

    The transformer's blocks are initialised to keep the size of their inputs, for any width. With the published
    initialisation (0.02, for a width of 768) the blocks of narrow models hardly use each other's outputs for hundreds
    of updates.

    Args:
        config: of the model.
        seed: equal seeds give equal weights.

    Returns:
        The model; its ``trained`` is False.
    """
    with seeded_rng(seed, torch.device("cpu")):
        tokenizer = build_tokenizer(config.tokenizer)
        transformer = Transformer.build(config)
        for layer in transformer.llm.model.layers.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    model = WorldModel(config, tokenizer, transformer)
    model.trained = False
    return model


@torch_defaults()
def with_actions(world_model: WorldModel, action_dim: int) -> WorldModel:
    """An action-free world model with an action projection and a reward head, both zero.

    The paper begins model-based RL in this way, from a model that was pre-trained without actions (section 4.3). Until
    the new model is trained, it imagines the same frames as the old one for all actions, and rewards of 0.

    Args:
        world_model: action-free; its weights are copied.
        action_dim: length of an action.

    Returns:
        A new model on the same device, of the same dtype.

    Raises:
        ConfigError: for a model that takes actions already, or an ``action_dim`` below 1.
    """
    if world_model.config.action_dim or action_dim < 1:
        raise ConfigError(
            f"expected an action-free world model and an action_dim of at least 1, got a model with "
            f"action_dim={world_model.config.action_dim} and action_dim={action_dim}"
        )
    config = dataclasses.replace(world_model.config, action_dim=action_dim, action_names=(), reward=True)
    old = world_model.transformer
    with seeded_rng(0, torch.device("cpu")):  # all weights are replaced: no random number of the caller's is used
        transformer = Transformer.build(config)
    transformer.load_state_dict(old.state_dict(), strict=False)  # the new layers keep their initial zeros
    model = WorldModel(config, copy.deepcopy(world_model.tokenizer), transformer)
    model.trained = world_model.trained
    return model.to(world_model.device, world_model.dtype)


class Start(NamedTuple):
    """The checkpoint from whose weights training starts."""

    config: WorldModelConfig
    """Of the checkpoint."""
    about: dict[str, Any]
    """For the run's ``config.json``: ``checkpoint``, its name; ``tokenizer_digest``, of its tokenizer; ``changes``,
    what differs from it; ``trained_on``, summaries of its recordings."""


def start_from(
    checkpoint: str,
    model: Tokenizer | Transformer,
    config: TokenizerConfig | WorldModelConfig,
    held_out: Recordings,
    assign: bool = False,
) -> Start:
    """Give a part of a world model the weights that the same part has in a checkpoint; see ``adapt.py``.

    Args:
        checkpoint: a name that ships, a folder, or a Hugging Face Hub id.
        model: a tokenizer or a transformer.
        config: that of the tokenizer, or of the world model.
        held_out: recordings that the checkpoint must not have been trained on.
        assign: put the weights in place of the model's, which may then be without memory (on the meta device).

    Raises:
        CheckpointError: if the checkpoint is missing or damaged.
        ConfigError: if its weights cannot be used; names what differs.
        DataError: if it was trained on a held-out episode.
    """
    parts = load(checkpoint)
    trained_on = list(summaries(parts.config.training_data))
    for summary in trained_on:
        check_held_out(summary, held_out)
    try:
        if isinstance(model, Transformer):
            assert isinstance(config, WorldModelConfig)
            adapted = adapted_transformer(parts.transformer.state_dict(), parts.config, model, config)
        else:
            assert not isinstance(config, WorldModelConfig)
            adapted = adapted_tokenizer(parts.tokenizer.state_dict(), parts.config.tokenizer, model, config)
    except ConfigError as error:
        raise ConfigError(f"{checkpoint}: {error}") from error
    weights, changes = adapted
    model.load_state_dict(weights, assign=assign)
    about = {
        "checkpoint": checkpoint,
        "tokenizer_digest": digest(parts.tokenizer.state_dict()),
        "changes": changes,
        "trained_on": trained_on,
    }
    return Start(parts.config, about)


@torch.no_grad()
def initialise_from_codebooks(model: Transformer, tokenizer: Tokenizer) -> None:
    """Initialise embeddings and output vectors so that near codes have near vectors.

    Each vector is a random projection of the code's vector and its squared length, so a logit can be the distance to a
    point in code space from the first step on (``-|e - z|^2`` is linear in ``e`` and ``|e|^2``). Otherwise the ids
    start unrelated, and every code has to be learned separately.

    Args:
        model: the transformer.
        tokenizer: its tokenizer.
    """
    layout = model.layout
    for codebook, first in zip(tokenizer.codebooks(), (0, layout.dynamics_ids.start), strict=True):
        features = torch.cat([codebook, codebook.square().sum(1, keepdim=True)], dim=1)
        features = ((features - features.mean(0)) / features.std(0).clamp(min=1e-6)).cpu()
        for weight in (model.llm.model.embed_tokens.weight, model.llm.lm_head.weight):
            weight[first : first + len(codebook)] = (features @ _projection(features.shape[1], weight.shape[1])).to(
                weight
            )


def _projection(inputs: int, outputs: int) -> Tensor:
    sampled = torch.randn(inputs, outputs, dtype=torch.float32, device="cpu")
    return sampled.mul_(INIT_STD).div_(inputs**0.5)
