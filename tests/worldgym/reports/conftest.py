"""A checkpoint for the toy world."""

import dataclasses
from pathlib import Path

import pytest
import torch

from worldgym.config import CompactTokenizerConfig, WorldModelConfig
from worldgym.envs.simulators.toy_world import RESOLUTION
from worldgym.tokenizer import build_tokenizer
from worldgym.transformer.transformer import Transformer
from worldgym.world_model import WorldModel

WINDOW = 5  # imagined frames in the model's window


@pytest.fixture(scope="session")
def toy_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_config: WorldModelConfig) -> Path:
    """Of a model for the toy world, of random weights."""
    assert isinstance(tiny_config.tokenizer, CompactTokenizerConfig)
    tokenizer = dataclasses.replace(tiny_config.tokenizer, resolution=RESOLUTION, context_grid=4)
    transformer = dataclasses.replace(tiny_config.transformer, max_positions=tokenizer.layout.length(WINDOW))
    config = dataclasses.replace(
        tiny_config, tokenizer=tokenizer, transformer=transformer, action_dim=2, tasks=("toy",)
    )
    folder = tmp_path_factory.mktemp("toy-checkpoint")
    network = Transformer.build(config)
    for weight in network.parameters():  # new models reward nothing; here they must
        torch.nn.init.normal_(weight, std=0.3)
    WorldModel(config, build_tokenizer(tokenizer), network).save_pretrained(folder)
    return folder
