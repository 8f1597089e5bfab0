"""A world model that learns from segments as they come."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from worldgym.config import CompactTokenizerConfig, TransformerConfig, WorldModelConfig
from worldgym.data.episode import Episode
from worldgym.data.recordings import Batch, Recordings, Segment, to_batch, to_unit
from worldgym.errors import CheckpointError, ConfigError, DataError, TrainingError
from worldgym.metrics.pixels import psnr, r_squared, squared_error
from worldgym.training.initial import fresh_world_model, with_actions
from worldgym.training.online import OnlineConfig, OnlineTrainer
from worldgym.world_model import WorldModel

LENGTH = 6  # of the tiny model's window: 2 context frames and 4 more
SETTINGS = OnlineConfig(learning_rate=3e-3, warmup_updates=5, future_frames=2, precision="float32")


@pytest.fixture(scope="module")
def recordings(synthetic_recordings: Path) -> Recordings:
    return Recordings(synthetic_recordings)


def sample(recordings: Recordings, index: int) -> Batch:
    return recordings.sample(np.random.default_rng(index), 4, LENGTH)


def learn(trainer: OnlineTrainer, recordings: Recordings, updates: range) -> None:
    for index in updates:
        trainer.fit_tokenizer(sample(recordings, index))
        trainer.fit_transformer(sample(recordings, index))


def pushed_square(seed: int) -> Segment:
    """32 x 32 pixels; both actions are -1 or 1 and push an 8 x 8 square by 4 pixels each."""
    rng = np.random.default_rng(seed)
    actions = rng.choice([-1.0, 1.0], (24, 2)).astype(np.float32)
    places = [np.array([12, 12])]
    for action in actions:
        places.append(np.clip(places[-1] + 4 * action.astype(int), 0, 24))
    frames = np.full((25, 32, 32, 3), 40, np.uint8)
    for frame, (row, column) in zip(frames, places, strict=True):
        frame[row : row + 8, column : column + 8] = (250, 220, 30)
    return Segment(frames, actions, np.array(places[1:], np.float32)[:, 0] / 8)


def steps_of(clips: list[Segment], rng: np.random.Generator, count: int) -> Batch:
    """Random pairs of neighbouring frames."""
    picks = [(clips[int(rng.integers(len(clips)))], int(rng.integers(24))) for _ in range(count)]
    return to_batch(
        [Segment(clip.frames[at : at + 2], clip.actions[at : at + 1], clip.rewards[at : at + 1]) for clip, at in picks]
    )


def test_model_from_scratch_beats_the_last_frame() -> None:
    tokenizer = CompactTokenizerConfig(32, 1, 8, 1, 4, 4, latent_channels=8, context_codes=64, dynamics_codes=64)
    positions = tokenizer.layout.length(1)
    transformer = TransformerConfig(3, 4, 1, 64, 128, positions, cumulative_actions=True, place_embeddings=True)
    model = fresh_world_model(WorldModelConfig(tokenizer, transformer, action_dim=2, reward=True))
    settings = OnlineConfig(5e-3, future_frames=1, label_width=0, noise_width=0, reward_weight=1, precision="float32")
    trainer, rng = OnlineTrainer(model, settings), np.random.default_rng(0)
    clips = [pushed_square(seed) for seed in range(40)]
    for _ in range(100):
        trainer.fit_tokenizer(steps_of(clips, rng, 16))
    for update in range(200):
        trainer.fit_transformer(steps_of(clips, rng, 16))
        if update % 4 == 3:
            trainer.fit_tokenizer(steps_of(clips, rng, 16))
    assert (trainer.updates, trainer.version) == ({"tokenizer": 150, "transformer": 200}, 350)

    unseen = steps_of([pushed_square(seed) for seed in range(100, 116)], rng, 64)
    imagined = model.rollout(unseen.frames[:, :1], unseen.actions, top_k=1)
    last, real = to_unit(unseen.frames).unbind(1)
    foreseen, still = (float(squared_error(made, real).mean()) for made in (to_unit(imagined.frames[:, 0]), last))
    assert psnr(foreseen) > psnr(still) + 1.5
    assert r_squared(imagined.rewards[:, 0], unseen.rewards[:, 0]) > 0.3


def test_imagination_uses_the_newest_weights(tiny_checkpoint: Path, recordings: Recordings) -> None:
    model = WorldModel.from_pretrained(tiny_checkpoint)
    trainer = OnlineTrainer(model, SETTINGS)
    batch = sample(recordings, 0)

    def imagined() -> torch.Tensor:
        return model.rollout(batch.frames[:, :2], batch.actions[:, 1:3], top_k=1).rewards

    before = imagined()
    trainer.fit_transformer(batch)
    assert not torch.equal(imagined(), before)
    assert not model.tokenizer.training
    assert not model.transformer.training
    copy = WorldModel(model.config, model.tokenizer, model.transformer)
    assert torch.equal(
        copy.rollout(batch.frames[:, :2], batch.actions[:, 1:3], top_k=1).rewards, imagined()
    )  # nothing of before is kept


def test_resumed_training_is_bit_identical(tiny_config: WorldModelConfig, recordings: Recordings) -> None:
    unbroken = OnlineTrainer(fresh_world_model(tiny_config), SETTINGS)
    learn(unbroken, recordings, range(6))
    first = OnlineTrainer(fresh_world_model(tiny_config), SETTINGS)
    learn(first, recordings, range(3))
    saved = first.state_dict()
    learn(first, recordings, range(3, 4))  # what was saved does not follow
    second = OnlineTrainer(fresh_world_model(tiny_config, seed=5), SETTINGS)
    second.load_state_dict(saved)
    learn(second, recordings, range(3, 6))
    states = unbroken.state_dict(), second.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_global_random_state_is_unchanged(tiny_checkpoint: Path, recordings: Recordings) -> None:
    trainer = OnlineTrainer(WorldModel.from_pretrained(tiny_checkpoint), SETTINGS)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    trainer.fit_tokenizer(sample(recordings, 0))
    trainer.fit_transformer(sample(recordings, 0))
    assert torch.equal(torch.rand(2), expected)


def test_refitted_rewards_have_a_smaller_error(tiny_checkpoint: Path, recordings: Recordings) -> None:
    model = WorldModel.from_pretrained(tiny_checkpoint)
    trainer = OnlineTrainer(model, SETTINGS)
    batches = [sample(recordings, index) for index in range(20)]

    weights = {name: value.clone() for name, value in model.transformer.state_dict().items()}
    before = trainer.fit_transformer(batches[0])["reward_error"]
    model.transformer.load_state_dict(weights)
    trainer.refit_rewards(batches)
    assert trainer.fit_transformer(batches[0])["reward_error"] < 0.7 * before


def test_fresh_models_are_untrained_until_their_first_update(
    tiny_config: WorldModelConfig, recordings: Recordings
) -> None:
    trainer = OnlineTrainer(fresh_world_model(tiny_config), SETTINGS)
    assert not trainer.trained
    trainer.fit_transformer(sample(recordings, 0))
    assert trainer.trained
    resumed = OnlineTrainer(fresh_world_model(tiny_config), SETTINGS)
    resumed.load_state_dict(trainer.state_dict())
    assert resumed.trained
    one, two = fresh_world_model(tiny_config, 4), fresh_world_model(tiny_config, 4)
    assert one.fingerprint() == two.fingerprint() != fresh_world_model(tiny_config, 5).fingerprint()


def test_training_without_action_weights_is_not_restarted(
    tiny_config: WorldModelConfig, recordings: Recordings
) -> None:
    """With actions of zero their weights stay zero; the embeddings must keep what they learned all the same."""
    batch = sample(recordings, 0)
    still = batch._replace(actions=torch.zeros_like(batch.actions))
    trainer = OnlineTrainer(fresh_world_model(tiny_config), SETTINGS)
    losses = [trainer.fit_transformer(still)["cross_entropy"] for _ in range(60)]
    assert not trainer.world_model.transformer.action_linear.weight.any()  # type: ignore[union-attr]
    assert losses[-1] < 0.6 * losses[0]


def test_codebook_does_not_move_when_the_loss_is_infinite(tiny_checkpoint: Path, recordings: Recordings) -> None:
    model = WorldModel.from_pretrained(tiny_checkpoint)
    trainer = OnlineTrainer(model, SETTINGS)
    before = {name: value.clone() for name, value in model.tokenizer.state_dict().items() if "quantizer" in name}
    with torch.no_grad():
        model.tokenizer.decoder.out.bias.fill_(float("inf"))
    with pytest.raises(TrainingError):
        trainer.fit_tokenizer(sample(recordings, 0))
    after = model.tokenizer.state_dict()
    assert before
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_action_free_model_takes_actions(tiny_config: WorldModelConfig, recordings: Recordings) -> None:
    free = fresh_world_model(dataclasses.replace(tiny_config, action_dim=0, reward=False))
    batch = sample(recordings, 0)
    model = with_actions(free, 4)
    expected = free.rollout(batch.frames[:, :2], horizon=3, top_k=1)
    imagined = model.rollout(batch.frames[:, :2], batch.actions[:, 1:4], top_k=1)
    assert torch.equal(imagined.frames, expected.frames)
    assert not imagined.rewards.any()
    trainer = OnlineTrainer(model, SETTINGS)
    assert trainer.trained
    for _ in range(3):
        trainer.fit_transformer(batch)
    assert model.transformer.action_linear.weight.any()  # type: ignore[union-attr]
    assert model.rollout(batch.frames[:, :2], batch.actions[:, 1:4], top_k=1).rewards.any()
    with pytest.raises(ConfigError, match="action-free"):
        with_actions(model, 4)


@pytest.mark.parametrize("change", ["dtype", "autocast", "no_grad", "inference_mode"])
def test_training_ignores_the_callers_torch_settings(
    change: str, tiny_config: WorldModelConfig, recordings: Recordings
) -> None:
    expected = OnlineTrainer(fresh_world_model(tiny_config), SETTINGS)
    learn(expected, recordings, range(2))
    contexts: dict[str, AbstractContextManager[object]] = {
        "dtype": default_dtype(torch.float64),
        "autocast": torch.autocast("cpu", torch.bfloat16),
        "no_grad": torch.no_grad(),
        "inference_mode": torch.inference_mode(),
    }
    with contexts[change]:
        trainer = OnlineTrainer(fresh_world_model(tiny_config), SETTINGS)
        learn(trainer, recordings, range(2))
    states = expected.state_dict(), trainer.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(before)


def repeated(batch: Batch) -> Batch:
    """The segments twice in a row, the second time without their first frame."""
    frames = torch.cat([batch.frames, batch.frames[:, 1:]], dim=1)
    return Batch(frames, batch.actions.repeat(1, 2, 1), batch.rewards.repeat(1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda batch: batch._replace(frames=batch.frames[:, :, :32]), "64, 64, 3"),
        (lambda batch: batch._replace(frames=batch.frames.float()), "frames float32"),
        (lambda batch: batch._replace(rewards=batch.rewards[..., None]), r"rewards float32 \[4, 5, 1\]"),
        (lambda batch: batch._replace(actions=batch.actions[..., :2]), "actions"),
        (lambda batch: batch._replace(rewards=batch.rewards[:, :-1]), "rewards"),
        (lambda batch: batch._replace(rewards=batch.rewards * float("nan")), "finite"),
        (lambda batch: Batch(batch.frames[:, :2], batch.actions[:, :1], batch.rewards[:, :1]), "3 to 6 frames, got 2"),
        (repeated, "3 to 6 frames, got 11"),
    ],
)
def test_mismatched_segments_raise(
    tiny_checkpoint: Path, recordings: Recordings, change: Callable[[Batch], Batch], message: str
) -> None:
    trainer = OnlineTrainer(WorldModel.from_pretrained(tiny_checkpoint), SETTINGS)
    with pytest.raises(DataError, match=message):
        trainer.fit_transformer(change(sample(recordings, 0)))
    assert trainer.version == 0


def test_unsuitable_models_raise(tiny_checkpoint: Path, tiny_config: WorldModelConfig) -> None:
    for change in ({"action_dim": 0}, {"goal_conditioned": True}):
        with pytest.raises(ConfigError, match=r"with_actions|without a goal frame"):
            OnlineTrainer(fresh_world_model(dataclasses.replace(tiny_config, **change)))
    with pytest.raises(ConfigError, match="float32"):
        OnlineTrainer(WorldModel.from_pretrained(tiny_checkpoint, dtype="bfloat16"))
    with pytest.raises(ConfigError, match="learning_rate"):
        OnlineConfig(learning_rate=0.0)


def test_state_of_another_trainer_raises(tiny_config: WorldModelConfig, recordings: Recordings) -> None:
    trainer = OnlineTrainer(fresh_world_model(tiny_config), SETTINGS)
    state = trainer.state_dict()
    with pytest.raises(CheckpointError, match="expected the state of a trainer"):
        trainer.load_state_dict({name: value for name, value in state.items() if "weights" not in name})


def test_infinite_loss_raises_before_the_weights_change(tiny_checkpoint: Path, recordings: Recordings) -> None:
    model = WorldModel.from_pretrained(tiny_checkpoint)
    trainer = OnlineTrainer(model, SETTINGS)
    with torch.no_grad():
        model.transformer.llm.lm_head.weight.fill_(float("inf"))
    others = {name: value.clone() for name, value in model.transformer.state_dict().items() if "lm_head" not in name}
    with pytest.raises(TrainingError, match=r"diverged at update 0 of Transformer: .*with a learning rate below 0.003"):
        trainer.fit_transformer(sample(recordings, 0))
    assert all(torch.equal(model.transformer.state_dict()[name], value) for name, value in others.items())


def test_short_episodes(tiny_checkpoint: Path, make_episode: Callable[..., Episode]) -> None:
    episode = make_episode("hammer", "random", 0, steps=LENGTH - 1)
    parts = (episode.frames, episode.actions, episode.rewards)
    batch = Batch(*(torch.from_numpy(part)[None] for part in parts))
    trainer = OnlineTrainer(WorldModel.from_pretrained(tiny_checkpoint), SETTINGS)
    assert np.isfinite(trainer.fit_tokenizer(batch)["loss"])
