import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from worldgym.config import WorldModelConfig
from worldgym.data.recordings import Recordings
from worldgym.errors import ConfigError
from worldgym.training.recipe import Recipe, load_tokenizer_run
from worldgym.training.run import TrainingConfig, train
from worldgym.training.transformer import NEIGHBOURS, TransformerJob, nearest_codes, symlog
from worldgym.transformer.llama import Transformer


@pytest.fixture
def job(recipe: Recipe, tokenizer_run: Path, recordings: Recordings, held_out: Recordings) -> TransformerJob:
    config, tokenizer, _ = load_tokenizer_run(tokenizer_run)
    about = WorldModelConfig(config, recipe.transformer.model, action_dim=2, reward=True)
    torch.manual_seed(0)
    model = Transformer(about.transformer, about.layout, 2, reward=True)
    return TransformerJob(model, tokenizer, about, recipe.transformer.job, 8, recordings, held_out)


def test_the_loss_falls_on_a_moving_square(job: TransformerJob, tmp_path: Path) -> None:
    config = TrainingConfig(60, 8, 3e-3, warmup_steps=5, log_every=1, validate_every=100, precision="float32")
    train(job, config, tmp_path, {})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for name in ("cross_entropy", "reward_error"):
        values = [line[name] for line in lines if name in line]
        assert np.mean(values[-5:]) < 0.8 * np.mean(values[:5])
    assert {"validation/greedy/psnr/1", "validation/greedy/reward_r2/5", "validation/last_frame/psnr/5"} <= lines[
        -1
    ].keys()


def test_the_tokenizer_is_not_trained(job: TransformerJob) -> None:
    loss, _ = job.loss(np.random.default_rng(0))
    loss.backward()
    assert all(parameter.grad is None for parameter in job.tokenizer.parameters())
    assert not job.tokenizer.training


def test_segments_start_at_multiples_of_the_stride_and_fit(job: TransformerJob) -> None:
    rng = np.random.default_rng(0)
    drawn = [job._draw(rng) for _ in range(300)]
    assert {episode for episode, _ in drawn} == set(range(8))
    assert {start for _, start in drawn} == {0, 4, 8, 12, 16}  # of 25 frames a segment takes 8


def test_codes_are_worked_out_once_whatever_else_is_in_the_batch(job: TransformerJob) -> None:
    together = job._coded_batch([(0, 0), (1, 4), (0, 0)])
    alone = job._coded_batch([(1, 4)])
    assert together.context.shape == (3, 2, 16)
    assert together.future.shape == (3, 6, 4)
    assert torch.equal(together.future[0], together.future[2])
    assert torch.equal(together.future[1:2], alone.future)
    whole = job.recordings.episodes[1].load()
    np.testing.assert_array_equal(alone.actions[0].numpy(), whole.actions[5:11])
    np.testing.assert_array_equal(alone.rewards[0].numpy(), whole.rewards[5:11])
    assert set(job._coded) == {(0, 0), (1, 4)}


def test_token_noise_replaces_a_share_of_the_codes_by_neighbours(job: TransformerJob) -> None:
    codes = torch.randint(32, (50, 6, 4), generator=torch.Generator().manual_seed(0))
    job.config = dataclasses.replace(job.config, token_noise=0.25)
    noisy = job._with_noise(codes, np.random.default_rng(0))
    changed = noisy != codes
    assert changed.float().mean().item() == pytest.approx(0.25, abs=0.05)
    neighbours = nearest_codes(job.tokenizer.dynamics_codebook(), NEIGHBOURS)
    assert (neighbours[codes[changed]] == noisy[changed][:, None]).any(1).all()


def test_token_noise_can_be_off(job: TransformerJob) -> None:
    job.config = dataclasses.replace(job.config, token_noise=0.0)
    codes = torch.zeros(2, 3, 4, dtype=torch.int64)
    assert job._with_noise(codes, np.random.default_rng(0)) is codes


def test_noise_is_fed_but_never_the_target(job: TransformerJob, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    labels = type(job.model.layout).labels

    def spy(layout: object, ids: Tensor) -> Tensor:
        seen.append(ids)
        return labels(layout, ids)  # type: ignore[arg-type]

    monkeypatch.setattr(type(job.model.layout), "labels", spy)
    job.config = dataclasses.replace(job.config, token_noise=1.0)
    rng = np.random.default_rng(0)
    keys = [job._draw(np.random.default_rng(0)) for _ in range(1)]
    job.loss(rng)
    _, future = job.model.layout.split(seen[0])
    assert torch.equal(future[0], job._coded_batch(keys).future[0])


def test_nearest_codes_by_hand() -> None:
    codebook = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert nearest_codes(codebook, 2).tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]


def test_symlog_by_hand() -> None:
    torch.testing.assert_close(symlog(torch.tensor([0.0, torch.e - 1, 1 - torch.e])), torch.tensor([0.0, 1.0, -1.0]))


def test_recordings_of_another_kind_are_refused(
    job: TransformerJob, synthetic_recordings: Path, held_out: Recordings
) -> None:
    with pytest.raises(ConfigError, match=r"takes 2 actions at 32 pixels.*holds 4 at 64"):
        TransformerJob(job.model, job.tokenizer, job.about, job.config, 8, Recordings(synthetic_recordings), held_out)
