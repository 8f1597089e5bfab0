"""Figures of predicted successes and terminations."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from worldgym.config import WorldModelConfig
from worldgym.data.recordings import Recordings, sample_segments
from worldgym.reports.events import event_figures
from worldgym.tokenizer import build_tokenizer
from worldgym.transformer.transformer import Transformer
from worldgym.world_model import WorldModel


def model(config: WorldModelConfig, termination: float) -> WorldModel:
    torch.manual_seed(0)
    config = dataclasses.replace(config, success=True, termination=True)
    transformer = Transformer.build(config)
    transformer.heads["termination"].bias.data.fill_(termination)
    return WorldModel(config, build_tokenizer(config.tokenizer), transformer)


@pytest.fixture(scope="module")
def ending(synthetic_recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    """Recordings that terminate, and every other step of which is successful."""
    folder = tmp_path_factory.mktemp("ending")
    for number, file in enumerate(Recordings(synthetic_recordings).episodes):
        episode = file.load()
        info = dataclasses.replace(episode.info, terminated=True)
        successes = np.arange(len(episode)) % 2 == 0
        dataclasses.replace(episode, info=info, successes=successes).save(folder / f"{number}.safetensors")
    return Recordings(folder)


@pytest.mark.parametrize(("logit", "recall"), [(9.0, 1.0), (-9.0, 0.0)])
def test_terminations_are_counted_by_windows(
    tiny_config: WorldModelConfig, ending: Recordings, logit: float, recall: float
) -> None:
    segments = sample_segments(ending, 5, count=1, steps=4)
    figures = event_figures(model(tiny_config, logit), ending, segments, horizon=4)
    assert figures["termination_recall"] == recall
    assert figures["termination_precision"] == pytest.approx(0.5 * recall)  # half of the windows are ends of episodes
    assert figures["termination_f1"] == pytest.approx(2 / 3 * recall)
    if recall:
        assert figures["termination_delay"] == 3  # predicted at the first of four steps, real at the last
    assert "success_auroc" in figures


def test_models_without_heads_have_no_figures(shipped_config_model: WorldModel, ending: Recordings) -> None:
    segments = sample_segments(ending, 5, count=1, steps=4)
    assert event_figures(shipped_config_model, ending, segments, horizon=4) == {}


@pytest.fixture
def shipped_config_model(tiny_config: WorldModelConfig) -> WorldModel:
    return WorldModel(tiny_config, build_tokenizer(tiny_config.tokenizer), Transformer.build(tiny_config))
