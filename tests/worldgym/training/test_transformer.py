import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from worldgym.config import WorldModelConfig
from worldgym.data.episode import Episode
from worldgym.data.recordings import Recordings, to_batch, validation_segments
from worldgym.errors import ConfigError
from worldgym.parallel import Part
from worldgym.reward_scale import RewardScale
from worldgym.training import losses
from worldgym.training.code_kernels import code_kernel
from worldgym.training.encoded import EncodedBatch, encode_batch
from worldgym.training.loop import TrainingConfig, train
from worldgym.training.losses import transformer_loss
from worldgym.training.recipe import Recipe
from worldgym.training.runs import train_transformer
from worldgym.training.trained import load_tokenizer_run, load_world_model_run
from worldgym.training.transformer import (
    ENDED_STEPS,
    VALIDATION_STARTS,
    Place,
    TransformerTrainer,
    TransformerTrainingConfig,
)
from worldgym.transformer.transformer import Transformer
from worldgym.world_model import WorldModel


def make_trainer(
    recipe: Recipe, tokenizer_run: Path, recordings: Recordings, held_out: Recordings, **changes: float
) -> TransformerTrainer:
    config, tokenizer, *_ = load_tokenizer_run(tokenizer_run)
    world_config = WorldModelConfig(config, recipe.transformer.model, action_dim=2, reward=True)
    torch.manual_seed(0)
    model = Transformer(world_config.transformer, world_config.layout, 2, reward=True)
    settings = dataclasses.replace(recipe.transformer.job, **changes)
    return TransformerTrainer(model, tokenizer, world_config, settings, 8, recordings, held_out)


@pytest.fixture
def trainer(recipe: Recipe, tokenizer_run: Path, recordings: Recordings, held_out: Recordings) -> TransformerTrainer:
    return make_trainer(recipe, tokenizer_run, recordings, held_out)


def test_loss_falls_on_a_moving_square(trainer: TransformerTrainer, tmp_path: Path) -> None:
    config = TrainingConfig(60, 8, 3e-3, warmup_steps=5, log_every=1, validate_every=100, precision="float32")
    train(trainer, config, tmp_path, {})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for name in ("cross_entropy", "reward_error"):
        values = [line[name] for line in lines if name in line]
        assert np.mean(values[-5:]) < 0.8 * np.mean(values[:5])
    assert {"validation/greedy/psnr/1", "validation/greedy/reward_r2/5", "validation/last_frame/psnr/5"} <= lines[
        -1
    ].keys()


def test_validation_measures_the_loss_of_held_out_codes(
    trainer: TransformerTrainer, held_out: Recordings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CHUNK", 2)  # of three segments
    trainer.model.eval()
    found = trainer.validate(tmp_path / "video")["cross_entropy"]
    batch = encode_batch(trainer.tokenizer, validation_segments(held_out, 8, VALIDATION_STARTS).batch)
    tokens = trainer.model.layout.sequence(batch.context, batch.future)
    with torch.no_grad():
        _, metrics = transformer_loss(trainer.model, batch, tokens, None, trainer.world_config.reward_scale, 1.0)
    assert len(batch.future) == 3
    assert found == pytest.approx(metrics["cross_entropy"], rel=1e-5)


def test_tokenizer_is_not_trained(trainer: TransformerTrainer) -> None:
    loss, _ = trainer.loss(np.random.default_rng(0))
    loss.backward()
    assert all(parameter.grad is None for parameter in trainer.tokenizer.parameters())
    assert not trainer.tokenizer.training


def test_segments_start_at_multiples_of_the_stride_and_fit(trainer: TransformerTrainer) -> None:
    rng = np.random.default_rng(0)
    places = [trainer._sample_place(rng) for _ in range(300)]
    assert {place.episode for place in places} == set(range(8))
    assert {place.start for place in places} == {
        0,
        4,
        8,
        12,
        16,
        20,
    }  # of 25 frames a segment takes 8, padded at the end
    assert {place.gap for place in places} == {0}


def test_segments_begin_at_first_frames_and_behind_gaps(
    recipe: Recipe, tokenizer_run: Path, recordings: Recordings, held_out: Recordings
) -> None:
    trainer = make_trainer(recipe, tokenizer_run, recordings, held_out, first_share=1.0, later_share=0.5)
    rng = np.random.default_rng(0)
    places = [trainer._sample_place(rng) for _ in range(300)]
    assert {place.start for place in places} == {-1}
    assert {place.gap for place in places} == {0, 4, 8, 12, 16, 20}
    assert np.mean([place.gap > 0 for place in places]) == pytest.approx(0.5, abs=0.1)
    episode, batch = recordings.episodes[3], trainer._read(Place(3, -1, 12))
    frames = episode.frames()
    np.testing.assert_array_equal(batch.frames[0].numpy(), frames[[0, 0, *range(13, 19)]])
    np.testing.assert_array_equal(batch.actions[0, 1:].numpy(), episode.actions[12:18])
    np.testing.assert_array_equal(batch.rewards[0, 1:].numpy(), episode.rewards[12:18])
    encoded = trainer._encode([Place(3, -1, 12), Place(3, -1, 0)])
    assert encoded.weights is not None
    assert encoded.weights.tolist() == [[0.0, *[1.0] * 5], [1.0] * 6]


def test_frames_behind_a_gap_are_not_predicted(
    recipe: Recipe, tokenizer_run: Path, recordings: Recordings, held_out: Recordings
) -> None:
    trainer = make_trainer(recipe, tokenizer_run, recordings, held_out)
    trainer.model.eval()
    batch = trainer._encode([Place(2, 0, 8)])
    tokens = trainer.model.layout.sequence(batch.context, batch.future)

    def errors(batch: EncodedBatch) -> dict[str, float]:
        return transformer_loss(trainer.model, batch, tokens, None, RewardScale("symlog"), 1.0)[1]

    changed = batch._replace(rewards=batch.rewards + torch.tensor([7.0, 0, 0, 0, 0, 0]))
    assert errors(changed) == errors(batch)
    assert errors(changed._replace(weights=None)) != errors(batch)


def test_a_window_slides_if_segments_have_gaps(
    recipe: Recipe, tokenizer_run: Path, recordings: Recordings, held_out: Recordings, tmp_path: Path
) -> None:
    job = dataclasses.replace(recipe.transformer.job, first_share=0.5, later_share=0.5)
    changed = dataclasses.replace(recipe.transformer, job=job)
    train_transformer(changed, tokenizer_run, recordings, held_out, tmp_path / "run", torch.device("cpu"))
    assert load_world_model_run(tokenizer_run, tmp_path / "run").world_model.config.slides


def test_codes_are_computed_once_and_independently_of_the_batch(trainer: TransformerTrainer) -> None:
    together = trainer._encode([Place(0, 0, 0), Place(1, 4, 0), Place(0, 0, 0)])
    alone = trainer._encode([Place(1, 4, 0)])
    assert together.context.shape == (3, 2, 16)
    assert together.future.shape == (3, 6, 4)
    assert torch.equal(together.future[0], together.future[2])
    assert torch.equal(together.future[1:2], alone.future)
    episode = trainer.recordings.episodes[1].load()
    np.testing.assert_array_equal(alone.actions[0].numpy(), episode.actions[5:11])
    np.testing.assert_array_equal(alone.rewards[0].numpy(), episode.rewards[5:11])
    assert set(trainer._encoded) == {(0, 0, 0), (1, 4, 0)}


def test_segments_of_one_context_share_the_codes_of_their_frames(trainer: TransformerTrainer) -> None:
    for gap in (0, 4, 6, 15, 22):  # 24 frames lie behind the first one; the last segments reach beyond the end
        encoded = trainer._encode([Place(1, -1, gap)])
        whole = encode_batch(trainer.tokenizer, trainer._read(Place(1, -1, gap)))
        inside = min(6, 24 - gap)
        assert encoded.future.shape == whole.future.shape
        assert torch.equal(encoded.future[:, :inside], whole.future[:, :inside])
        assert torch.equal(encoded.context, whole.context)
        assert torch.equal(encoded.actions, whole.actions)
        assert encoded.weights is not None
        assert not encoded.weights[:, inside:].any()
    assert set(trainer._blocks) == {Place(1, -1, gap) for gap in (0, 6, 12, 18)}


def test_noise_samples_codes_near_the_true_ones(
    recipe: Recipe, tokenizer_run: Path, recordings: Recordings, held_out: Recordings
) -> None:
    trainer = make_trainer(recipe, tokenizer_run, recordings, held_out, noise_width=0.05)
    codes = torch.randint(32, (200, 6, 4), generator=torch.Generator().manual_seed(0))
    noisy = trainer.kernels.add_noise(trainer._codebook, codes, np.random.default_rng(0))
    kernel = code_kernel(trainer.tokenizer.codebooks()[1], 0.05)
    assert (kernel[codes, noisy] > 0).all()
    kept, expected = (noisy == codes).float().mean().item(), kernel.diagonal()[codes].mean().item()
    assert kept == pytest.approx(expected, abs=0.03)


def test_without_width_the_input_has_the_true_codes(trainer: TransformerTrainer) -> None:
    codes = torch.zeros(2, 3, 4, dtype=torch.int64)
    assert trainer.kernels.add_noise(trainer._codebook, codes, np.random.default_rng(0)) is codes


def test_without_width_the_loss_is_the_cross_entropy_of_the_codes(trainer: TransformerTrainer) -> None:
    trainer.model.eval()  # no dropout
    _, metrics = trainer.loss(np.random.default_rng(0))
    batch = trainer._encode(
        [trainer._sample_place(rng) for rng in [np.random.default_rng(0)] for _ in range(trainer.batch_size)]
    )
    layout = trainer.model.layout
    tokens = layout.sequence(batch.context, batch.future)
    out = trainer.model(tokens, batch.actions, logits_from=layout.prefix_length)
    logits = layout.code_logits(out.logits)
    errors = torch.nn.functional.cross_entropy(logits.flatten(0, 2), batch.future.flatten(), reduction="none")
    expected = batch.mean(errors.view(batch.future.shape).mean(-1))
    assert metrics["cross_entropy"] == pytest.approx(expected.item(), rel=1e-4)
    assert metrics["divergence"] == pytest.approx(metrics["cross_entropy"])


def test_noise_is_in_the_input_but_not_in_the_target(
    recipe: Recipe, tokenizer_run: Path, recordings: Recordings, held_out: Recordings
) -> None:
    trainer = make_trainer(recipe, tokenizer_run, recordings, held_out, noise_width=10.0)
    trainer.model.eval()  # no dropout
    _, metrics = trainer.loss(np.random.default_rng(0))
    rng = np.random.default_rng(0)
    batch = trainer._encode([trainer._sample_place(rng) for _ in range(trainer.batch_size)])
    codes = trainer.kernels.add_noise(trainer._codebook, batch.future, rng)
    assert not torch.equal(codes, batch.future)
    layout = trainer.model.layout
    out = trainer.model(layout.sequence(batch.context, codes), batch.actions, logits_from=layout.prefix_length)
    logits = layout.code_logits(out.logits).flatten(0, 2)
    errors = torch.nn.functional.cross_entropy(logits, batch.future.flatten(), reduction="none")
    expected = batch.mean(errors.view(batch.future.shape).mean(-1))
    assert metrics["cross_entropy"] == pytest.approx(expected.item(), rel=1e-4)


def test_the_mean_of_the_parts_of_a_batch_is_that_of_the_batch(
    recipe: Recipe, tokenizer_run: Path, recordings: Recordings, held_out: Recordings
) -> None:
    changes = {"segment_length": 3, "start_stride": 1, "later_share": 0.3, "noise_width": 0.05, "label_width": 0.05}
    trainer = make_trainer(recipe, tokenizer_run, recordings, held_out, **changes)
    trainer.model.eval()  # no dropout

    def trained(count: int) -> tuple[list[float], torch.Tensor]:
        """Means of the metrics, and the gradient."""
        trainer.model.zero_grad()
        found = []
        for index in range(count):
            loss, metrics = trainer.loss(np.random.default_rng(0), Part(index, count))
            (loss / count).backward()
            found.append(list(metrics.values()))
        gradients = [part.grad.flatten() for part in trainer.model.parameters() if part.grad is not None]
        return np.mean(found, axis=0).tolist(), torch.cat(gradients)

    batch = trainer._sample(np.random.default_rng(0), Part())[0]
    assert batch.weights is not None
    assert 0 in batch.weights  # a part of this segment alone has no weight
    metrics, gradient = trained(1)
    for count in (2, 8):
        others, other = trained(count)
        assert others == pytest.approx(metrics, abs=1e-5)
        torch.testing.assert_close(other, gradient, rtol=1e-4, atol=1e-6)


def test_recordings_of_another_size_raise(
    recipe: Recipe, tokenizer_run: Path, synthetic_recordings: Path, recordings: Recordings, held_out: Recordings
) -> None:
    other = Recordings(synthetic_recordings)
    for parts in ((other, held_out), (recordings, other)):
        with pytest.raises(ConfigError, match=r"recordings\d*: expected frames of 32 x 32 pixels.*got 64 x 64"):
            make_trainer(recipe, tokenizer_run, *parts)


@pytest.mark.parametrize("length", [2, 13])
def test_segments_that_do_not_fit_the_window_raise(trainer: TransformerTrainer, length: int) -> None:
    config = dataclasses.replace(trainer.config, segment_length=length)
    with pytest.raises(ConfigError, match=rf"expected 3 to 12 frames.*max_positions=84 allows, got {length}"):
        rebuild(trainer, config, trainer.world_config)


def test_a_stride_longer_than_a_segment_stays_inside_the_episode(
    recipe: Recipe, tokenizer_run: Path, recordings: Recordings, held_out: Recordings
) -> None:
    trainer = make_trainer(
        recipe, tokenizer_run, recordings, held_out, segment_length=3, start_stride=16, first_share=0.3, later_share=0.7
    )
    for seed in range(200):
        place = trainer._sample_place(np.random.default_rng(seed))
        assert trainer._weights(place, 1).any() or place.gap
        assert place.start + 2 + place.gap < 25
        trainer._read(place)


def test_frames_behind_the_end_have_no_weight(trainer: TransformerTrainer) -> None:
    batch = trainer._encode([Place(1, 20, 0)])
    assert batch.weights is not None
    assert batch.weights.tolist() == [[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]]  # frames 22 to 24 of 25
    assert not batch.actions[0, 3:].any()


def test_episodes_may_be_shorter_than_a_segment(
    recipe: Recipe, tokenizer_run: Path, held_out: Recordings, tmp_path: Path
) -> None:
    episode = held_out.episodes[0].load()
    for steps in (1, 2, 5):
        parts = episode.frames[: steps + 1], episode.actions[:steps], episode.rewards[:steps], episode.successes[:steps]
        info = dataclasses.replace(episode.info, seed=steps, terminated=True)
        Episode(*parts, info).save(tmp_path / f"{steps}.safetensors")
    short = Recordings(tmp_path)
    trainer = make_trainer(recipe, tokenizer_run, short, short)
    places = [trainer._sample_place(np.random.default_rng(seed)) for seed in range(50)]
    assert {(place.episode, place.start) for place in places} == {(0, -1), (1, 0), (2, 0)}
    loss, _ = trainer.loss(np.random.default_rng(0))
    assert torch.isfinite(loss)
    assert trainer._read(Place(1, 0, 0)).terminations is not None
    assert trainer._read(Place(1, 0, 0)).terminations.sum() == 1  # type: ignore[union-attr]


def test_steps_behind_an_end_count_as_terminated(
    trainer: TransformerTrainer, recordings: Recordings, tmp_path: Path
) -> None:
    for index, file in enumerate(recordings.episodes[:2]):
        episode = file.load()
        cut = dataclasses.replace(
            episode,
            frames=episode.frames[:5],
            actions=episode.actions[:4],
            rewards=episode.rewards[:4],
            successes=episode.successes[:4],
            info=dataclasses.replace(episode.info, terminated=index == 0),
        )
        cut.save(tmp_path / f"{index}.safetensors")
    trainer.recordings = Recordings(tmp_path)
    horizon = 4 + ENDED_STEPS + 3
    places = [Place(0, -1, 0), Place(1, -1, 0)]
    batch = to_batch([trainer.recordings.window(*place[:2], 2, 0, horizon) for place in places])
    changed, ended = trainer._behind_ends(batch, places)
    expected = torch.zeros(2, horizon, dtype=torch.bool)
    expected[0, 4 : 4 + ENDED_STEPS] = True
    assert ended.equal(expected)
    assert changed.terminations is not None
    assert changed.terminations[0, 1:].nonzero()[:, 0].tolist() == list(range(3, 4 + ENDED_STEPS))
    assert not changed.terminations[1].any()
    assert changed.actions[0, 5:9].equal(batch.actions[0, 1:5])  # it goes on acting as before
    assert changed.actions[1].equal(batch.actions[1])


def rebuild(
    trainer: TransformerTrainer, config: TransformerTrainingConfig, world_config: WorldModelConfig
) -> TransformerTrainer:
    parts = trainer.model, trainer.tokenizer
    return TransformerTrainer(*parts, world_config, config, 8, trainer.recordings, trainer.recordings)


@pytest.mark.parametrize("changes", [{}, {"first_share": 0.5, "later_share": 0.5}])
def test_heads_are_fitted_to_what_is_imagined(
    recipe: Recipe, tokenizer_run: Path, recordings: Recordings, held_out: Recordings, changes: dict[str, float]
) -> None:
    trainer = make_trainer(recipe, tokenizer_run, recordings, held_out, head_batches=30, **changes)
    scale = trainer.world_config.reward_scale

    def error() -> float:
        found = []
        for seed in range(3):
            for batch, tokens in trainer._imagine(model, np.random.default_rng(seed)):
                with torch.no_grad():
                    out = trainer.model(tokens, batch.actions)
                assert out.rewards is not None
                found.append(batch.mean(scale.errors(out.rewards, batch.rewards)).item())
        return float(np.mean(found))

    model = WorldModel(trainer.world_config, trainer.tokenizer, trainer.model)
    before = error()
    trainer.after_training()
    assert error() < 0.9 * before


def test_rewards_in_bins_are_trained(
    recipe: Recipe, tokenizer_run: Path, recordings: Recordings, held_out: Recordings, tmp_path: Path
) -> None:
    job = dataclasses.replace(recipe.transformer.job, head_batches=8, reward_bins=11)
    changed = dataclasses.replace(recipe.transformer, job=job)
    train_transformer(changed, tokenizer_run, recordings, held_out, tmp_path, torch.device("cpu"))
    model = load_world_model_run(tokenizer_run, tmp_path).world_model
    assert len(model.config.reward_bins) == 11
    segments = [recordings.segment(index, 0, 8) for index in range(8)]
    frames = torch.from_numpy(np.stack([segment.frames[:2] for segment in segments]))
    imagined = model.rollout(frames, np.stack([segment.actions[1:] for segment in segments]), 0.3).rewards
    real = np.stack([segment.rewards[1:] for segment in segments])
    assert imagined.mean().item() == pytest.approx(real.mean(), rel=0.35)


def test_uncertainty_is_the_error_to_expect_of_a_frame(
    recipe: Recipe, tokenizer_run: Path, recordings: Recordings, held_out: Recordings, tmp_path: Path
) -> None:
    job = dataclasses.replace(recipe.transformer.job, head_batches=40)
    changed = dataclasses.replace(recipe.transformer, job=job)
    train_transformer(changed, tokenizer_run, recordings, held_out, tmp_path, torch.device("cpu"))
    model = load_world_model_run(tokenizer_run, tmp_path).world_model
    assert model.config.frame_error
    segments = [recordings.segment(index, start, 8) for index in range(8) for start in (0, 8, 16)]
    frames = torch.from_numpy(np.stack([segment.frames for segment in segments]))
    imagined = model.rollout(frames[:, :2], np.stack([segment.actions[1:] for segment in segments]), 0.3)
    errors = (imagined.frames.float() - frames[:, 2:].float()).div(255).square().mean((2, 3, 4)).sqrt()
    assert imagined.uncertainty.mean().item() == pytest.approx(errors.mean().item(), rel=0.35)
    assert imagined.uncertainty.std() > 0
