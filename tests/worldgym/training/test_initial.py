"""World models at the start of training."""

import dataclasses

import numpy as np
import pytest
import torch

from worldgym.config import WorldModelConfig
from worldgym.errors import ConfigError
from worldgym.training.initial import fresh_world_model, initialise_from_codebooks, with_actions


def test_equal_seeds_make_equal_fresh_models(tiny_config: WorldModelConfig) -> None:
    first, second, other = (fresh_world_model(tiny_config, seed).fingerprint() for seed in (4, 4, 5))
    assert first == second != other


def test_with_actions_refuses_other_models(tiny_config: WorldModelConfig) -> None:
    with pytest.raises(ConfigError, match="expected an action-free world model"):
        with_actions(fresh_world_model(tiny_config), 4)
    free = fresh_world_model(dataclasses.replace(tiny_config, action_dim=0))
    with pytest.raises(ConfigError, match="action_dim=0"):
        with_actions(free, 0)


def test_near_codes_start_with_near_embeddings_and_output_vectors(tiny_config: WorldModelConfig) -> None:
    model = fresh_world_model(tiny_config)
    torch.nn.init.normal_(model.tokenizer.codebooks()[1])
    initialise_from_codebooks(model.transformer, model.tokenizer)
    codebook, ids = model.tokenizer.codebooks()[1], model.transformer.layout.dynamics_ids
    apart = torch.cdist(codebook, codebook)
    for weight in (model.transformer.llm.model.embed_tokens.weight, model.transformer.llm.lm_head.weight):
        learned = torch.cdist(weight[ids], weight[ids])
        assert np.corrcoef(apart.flatten().numpy(), learned.detach().flatten().numpy())[0, 1] > 0.7
