"""A transformer is fine-tuned through adapters of low rank, and saved as plain weights."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from worldgym.config import Sampling, TransformerConfig
from worldgym.data.recordings import Recordings
from worldgym.errors import ConfigError, DependencyNotInstalled
from worldgym.pretrained import load
from worldgym.runs.checkpoint import load_state, newest_checkpoint
from worldgym.storage.tensors import select_prefix
from worldgym.tokens import TokenLayout
from worldgym.training.export import export
from worldgym.training.lora import PROJECTIONS, add_adapters, merged
from worldgym.training.recipe import Recipe, TransformerRecipe
from worldgym.training.runs import train_transformer
from worldgym.training.transformer import TransformerTrainer
from worldgym.transformer.transformer import Transformer
from worldgym.world_model import WorldModel

CPU = torch.device("cpu")
Tune = Callable[..., int]


@pytest.fixture
def tune(recipe: Recipe, exported: Path, recordings: Recordings, held_out: Recordings) -> Tune:
    """Fine-tunes the toy checkpoint with adapters of rank 2."""

    def run(folder: Path, resume: bool = False, accumulate: int = 1, ema_decay: float = 0.0, **changes: Any) -> int:
        part = recipe.transformer
        job = dataclasses.replace(part.job, **{"lora_rank": 2, "head_batches": 8, "dropout": 0.0, **changes})
        part = dataclasses.replace(part, job=job, training=dataclasses.replace(part.training, ema_decay=ema_decay))
        data, more = (exported, recordings, held_out), {"initial": str(exported), "accumulate": accumulate}
        return train_transformer(part, *data, folder, CPU, resume=resume, **more)  # type: ignore[arg-type]

    return run


def make_transformer() -> Transformer:
    torch.manual_seed(0)
    config = TransformerConfig(2, 4, 2, hidden_size=32, mlp_size=48, max_positions=80)
    return Transformer(config, TokenLayout(1, 16, 4, 20, 24), action_dim=3, reward=True)


def test_adapters_heads_and_action_projection_alone_are_trained() -> None:
    model = make_transformer()
    add_adapters(model, 2)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapters = {name for name in trained if ".lora_" in name}
    assert trained - adapters == {
        "reward_linear.weight",
        "reward_linear.bias",
        "action_linear.weight",
        "action_linear.bias",
    }
    assert len(adapters) == 2 * 2 * len(PROJECTIONS)


def test_merged_weights_compute_what_the_adapters_do() -> None:
    model, plain = make_transformer().eval(), make_transformer().eval()
    tokens, actions = torch.randint(0, 16, (2, 31)), torch.randn(2, model.layout.slots(31), 3)
    before = model(tokens, actions).logits
    add_adapters(model, 2)
    assert torch.equal(model(tokens, actions).logits, before)  # B is 0 at first
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.5)
    plain.load_state_dict(merged(model.state_dict()))
    changed = model(tokens, actions).logits
    torch.testing.assert_close(plain(tokens, actions).logits, changed)
    assert (changed - before).abs().max() > 0.01


def test_a_plain_state_stays_as_it_is() -> None:
    state = make_transformer().state_dict()
    found = merged(state)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_interrupted_training_resumes_exactly(
    tune: Tune,
    interrupted: Callable[[type, int], None],
    assert_equal_runs: Callable[[Path, Path], None],
    tmp_path: Path,
    decay: float,
) -> None:
    tune(tmp_path / "unbroken", ema_decay=decay)
    interrupted(TransformerTrainer, 3)
    assert tune(tmp_path / "broken", ema_decay=decay) == 3
    assert tune(tmp_path / "broken", ema_decay=decay, resume=True) == 6
    assert_equal_runs(tmp_path / "unbroken", tmp_path / "broken")


def test_parts_give_the_gradient_of_the_whole_batch(tune: Tune, tmp_path: Path) -> None:
    for name, accumulate in (("whole", 1), ("parts", 4)):
        tune(tmp_path / name, accumulate=accumulate)
    whole, parts = (
        select_prefix("model", load_state(newest_checkpoint(tmp_path / name))[0]) for name in ("whole", "parts")
    )
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=1e-3, msg=name)


def test_a_tuned_checkpoint_is_plain_and_its_other_weights_are_those_it_started_from(
    tune: Tune, exported: Path, held_out: Recordings, tmp_path: Path
) -> None:
    tune(tmp_path / "run")
    export(exported, tmp_path / "run", held_out, tmp_path / "tuned", Sampling())
    old, new = (
        WorldModel.from_pretrained(folder).transformer.state_dict() for folder in (exported, tmp_path / "tuned")
    )
    assert old.keys() == new.keys()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    layers = {name.split(".")[-2] for name in changed}
    assert layers == {*PROJECTIONS, "action_linear", "reward_linear", "frame_error_linear"}
    name = "llm.model.layers.0.mlp.up_proj.weight"
    assert torch.linalg.matrix_rank((new[name] - old[name]).float(), rtol=0.05) == 2


def test_adapters_of_new_weights_and_too_large_ranks_are_refused(
    recipe: Recipe, tokenizer_run: Path, recordings: Recordings, held_out: Recordings, tmp_path: Path
) -> None:
    part = dataclasses.replace(recipe.transformer, job=dataclasses.replace(recipe.transformer.job, lora_rank=2))
    with pytest.raises(ConfigError, match=r"lora_rank: expected 0 for a transformer with new weights.*--initial"):
        train_transformer(part, tokenizer_run, recordings, held_out, tmp_path / "run", CPU)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match=r"lora_rank: expected a number from 1 to 15.*got 16"):
        add_adapters(make_transformer(), 16)


def test_missing_peft_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)  # importing it fails then
    with pytest.raises(DependencyNotInstalled, match=r"pip install worldgym\[lora\]"):
        add_adapters(make_transformer(), 2)


def test_published_weights_are_tuned(
    recipe: Recipe, parity: Path, synthetic_recordings: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Their folder has no configuration of ours."""
    monkeypatch.setattr("worldgym.training.transformer.HEAD_ROWS", 2)  # segments imagined to fit the heads
    both = Recordings(synthetic_recordings)
    for index, file in enumerate(both.episodes):
        file.load().save(tmp_path / ("train" if index % 2 else "held-out") / f"{index}.safetensors")
    job = dataclasses.replace(recipe.transformer.job, lora_rank=2, segment_length=5, head_batches=1)
    training = dataclasses.replace(recipe.transformer.training, steps=1, batch_size=2, validate_every=1)
    part = TransformerRecipe(load(parity).config.transformer, job, training)
    data = (Recordings(tmp_path / name) for name in ("train", "held-out"))
    assert train_transformer(part, parity, *data, tmp_path / "run", CPU, initial=str(parity)) == 1
