"""A world model that learns from segments as they come."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import pairwise
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

TorchSettings = dict[str, Callable[[], AbstractContextManager[object]]]

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


def sample_steps(clips: list[Segment], rng: np.random.Generator, count: int) -> Batch:
    """Random pairs of consecutive frames."""
    picks = [(clips[int(rng.integers(len(clips)))], int(rng.integers(24))) for _ in range(count)]
    return to_batch(
        [Segment(clip.frames[at : at + 2], clip.actions[at : at + 1], clip.rewards[at : at + 1]) for clip, at in picks]
    )


def test_model_from_scratch_beats_the_last_frame() -> None:
    tokenizer = CompactTokenizerConfig(32, 1, 8, 1, 4, 4, latent_channels=8, context_codes=64, dynamics_codes=64)
    positions = tokenizer.layout.length(1)
    transformer = TransformerConfig(2, 4, 1, 64, 128, positions, cumulative_actions=True, place_embeddings=True)
    model = fresh_world_model(WorldModelConfig(tokenizer, transformer, action_dim=2, reward=True))
    settings = OnlineConfig(5e-3, future_frames=1, dropout=0.0, precision="float32")
    trainer, rng = OnlineTrainer(model, settings), np.random.default_rng(0)
    clips = [pushed_square(seed) for seed in range(40)]
    for _ in range(60):
        trainer.fit_tokenizer(sample_steps(clips, rng, 16))
    for update in range(120):
        trainer.fit_transformer(sample_steps(clips, rng, 16))
        if update % 4 == 3:
            trainer.fit_tokenizer(sample_steps(clips, rng, 16))
    assert (trainer.updates, trainer.version) == ({"tokenizer": 90, "transformer": 120}, 210)

    unseen = sample_steps([pushed_square(seed) for seed in range(100, 116)], rng, 64)
    imagined = model.rollout(unseen.frames[:, :1], unseen.actions, top_k=1)
    last, real = to_unit(unseen.frames).unbind(1)
    errors = (float(squared_error(frames, real).mean()) for frames in (to_unit(imagined.frames[:, 0]), last))
    imagined_psnr, last_psnr = map(psnr, errors)
    assert imagined_psnr > last_psnr + 1
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
    trainer.fit_tokenizer(sample(recordings, 0))
    assert not trainer.trained
    trainer.fit_transformer(sample(recordings, 0))
    assert trainer.trained
    assert OnlineTrainer(trainer.world_model, SETTINGS).trained


@pytest.mark.parametrize("trained", [False, True])
def test_state_says_whether_the_model_is_trained(
    tiny_config: WorldModelConfig, tiny_checkpoint: Path, trained: bool
) -> None:
    """Also where the model was trained before it was given to the trainer, which made no update of its own."""
    fresh, pretrained = fresh_world_model(tiny_config), WorldModel.from_pretrained(tiny_checkpoint)
    saved, resumed = (pretrained, fresh) if trained else (fresh, pretrained)
    trainer = OnlineTrainer(resumed, SETTINGS)
    trainer.load_state_dict(OnlineTrainer(saved, SETTINGS).state_dict())
    assert trainer.trained is trained


def test_training_with_actions_of_zero_is_not_restarted(tiny_config: WorldModelConfig, recordings: Recordings) -> None:
    """The action weights stay zero then, as in a fresh model; embeddings and head must keep what they learned."""
    batch = sample(recordings, 0)
    batch = batch._replace(actions=torch.zeros_like(batch.actions))
    trainer = OnlineTrainer(fresh_world_model(tiny_config), SETTINGS)
    model = trainer.world_model.transformer
    losses, embeddings = [], []
    for _ in range(30):
        losses.append(trainer.fit_transformer(batch)["cross_entropy"])
        embeddings.append(model.llm.model.embed_tokens.weight.detach().clone())
    assert model.action_linear is not None
    assert not model.action_linear.weight.any()
    largest = [float((new - old).abs().max()) for old, new in pairwise(embeddings)]
    assert max(largest) < 2 * SETTINGS.learning_rate  # an update of Adam, not new weights
    assert losses[-1] < 0.8 * losses[0]


def test_infinite_loss_of_the_tokenizer_changes_nothing(tiny_checkpoint: Path, recordings: Recordings) -> None:
    """Neither weights nor codebooks nor their statistics, now or with the next update."""
    trainer, other = (OnlineTrainer(WorldModel.from_pretrained(tiny_checkpoint), SETTINGS) for _ in range(2))
    learn(trainer, recordings, range(1))
    learn(other, recordings, range(1))
    bias = trainer.world_model.tokenizer.get_parameter("decoder.out.bias")
    value = bias.detach().clone()
    with torch.no_grad():
        bias.fill_(float("inf"))
    with pytest.raises(TrainingError):
        trainer.fit_tokenizer(sample(recordings, 5))
    with torch.no_grad():
        bias.copy_(value)
    for _ in range(2):
        states = trainer.state_dict(), other.state_dict()
        assert [name for name, value in states[0].items() if not torch.equal(states[1][name], value)] == []
        learn(trainer, recordings, range(1, 2))
        learn(other, recordings, range(1, 2))


def test_action_free_model_takes_actions(tiny_config: WorldModelConfig, recordings: Recordings) -> None:
    free = fresh_world_model(dataclasses.replace(tiny_config, action_dim=0, reward=False))
    free.trained = True
    batch = sample(recordings, 0)
    torch.manual_seed(3)
    expected_random = torch.rand(2)
    torch.manual_seed(3)
    model = with_actions(free, 4)
    assert torch.equal(torch.rand(2), expected_random)
    expected = free.rollout(batch.frames[:, :2], horizon=3, top_k=1)
    imagined = model.rollout(batch.frames[:, :2], batch.actions[:, 1:4], top_k=1)
    assert torch.equal(imagined.frames, expected.frames)
    assert torch.equal(imagined.uncertainty, expected.uncertainty)
    assert not imagined.rewards.any()
    weights = free.transformer.state_dict(), free.tokenizer.state_dict()
    before = [{name: value.clone() for name, value in part.items()} for part in weights]
    trainer = OnlineTrainer(model, SETTINGS)
    assert trainer.trained
    for _ in range(3):
        trainer.fit_tokenizer(batch)
        trainer.fit_transformer(batch)
    assert model.transformer.action_linear is not None
    assert model.transformer.action_linear.weight.any()
    assert model.rollout(batch.frames[:, :2], batch.actions[:, 1:4], top_k=1).rewards.any()
    for old, new in zip(before, weights, strict=True):  # the action-free model is another one
        assert all(torch.equal(old[name], value) for name, value in new.items())


CALLERS = "float64", "bfloat16", "device context", "autocast", "no gradients", "inference mode", "deterministic"


@pytest.mark.parametrize("setting", CALLERS)
def test_training_ignores_the_callers_torch_settings(
    setting: str, torch_settings: TorchSettings, tiny_config: WorldModelConfig, recordings: Recordings
) -> None:
    def train() -> dict[str, torch.Tensor]:
        free = dataclasses.replace(tiny_config, action_dim=0, reward=False)
        for model in (fresh_world_model(tiny_config), with_actions(fresh_world_model(free), tiny_config.action_dim)):
            trainer = OnlineTrainer(model, dataclasses.replace(SETTINGS, label_width=0.5, noise_width=0.5))
            learn(trainer, recordings, range(2))
            trainer.refit_rewards([sample(recordings, 0)])
            trainer.load_state_dict(trainer.state_dict())
            states.append(trainer.state_dict())
        return states[-2] | {f"with_actions.{name}": value for name, value in states[-1].items()}

    states: list[dict[str, torch.Tensor]] = []
    expected = train()
    with torch_settings[setting]():
        found = train()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


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
