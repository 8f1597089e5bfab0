"""The recipes of the paper's models: their sizes, and that each trains on converted clips."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from worldgym.cli import main
from worldgym.config import CompressiveTokenizerConfig, WorldModelConfig
from worldgym.data.recordings import Recordings
from worldgym.isolation import torch_defaults
from worldgym.pretrained import load, save_published
from worldgym.runs.folder import CONFIG
from worldgym.tokenizer import build_tokenizer
from worldgym.training.recipe import FOLDER, Recipe, load_recipe, recipe_to_dict
from worldgym.training.trained import load_world_model_run
from worldgym.transformer.transformer import Transformer

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
FRAMES = 20
# Paper, Table 2: 114M and 310M; 138M and 436M. To the digit where FACTS or published files say so.
TOKENIZERS = {64: 114_159_174, 256: 310_472_774}
TRANSFORMERS = {12: 138_435_073, 24: 436_262_913}  # without actions, with a reward head


def _load(name: str) -> Recipe:
    return load_recipe(FOLDER / f"{name}.json")


@pytest.mark.parametrize("name", NAMES)
def test_models_have_the_sizes_of_the_paper(name: str) -> None:
    recipe = _load(name)
    model, action_dim = recipe.tokenizer.model, recipe.transformer.job.action_dim or 0
    config = WorldModelConfig(model, recipe.transformer.model, action_dim, reward=True)
    with torch_defaults("meta"):  # without memory for weights
        parts = build_tokenizer(dataclasses.replace(model, context_length=2)), Transformer.build(config)
    tokenizer, transformer = (sum(weight.numel() for weight in part.parameters()) for part in parts)
    assert tokenizer == TOKENIZERS[model.resolution]
    projection = (action_dim + 1) * config.transformer.hidden_size if action_dim else 0
    assert transformer == TRANSFORMERS[config.transformer.layers] + projection


@pytest.mark.parametrize("name", NAMES)
def test_names_say_what_is_trained(name: str) -> None:
    recipe = _load(name)
    model, job = recipe.tokenizer.model, recipe.transformer.job
    assert f"-{model.resolution}-" in name
    assert bool(job.action_dim) == name.endswith("act-cond")
    assert job.goal_conditioned == recipe.tokenizer.job.random_context == name.endswith("goal-cond")
    assert (recipe.tokenizer.initial is None) == name.startswith("oxe") or name == "oxe-64-goal-cond"
    assert recipe.about.startswith(("Pre-train", "Fine-tune"))


@pytest.fixture(scope="session")
def published(parity: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small published model of the tests without its actions, as the pre-trained models are published."""
    parts, folder = load(parity), tmp_path_factory.mktemp("published")
    config = WorldModelConfig(parts.config.tokenizer, parts.config.transformer)
    transformer = Transformer.build(config)
    transformer.load_state_dict({name: parts.transformer.state_dict()[name] for name in transformer.state_dict()})
    save_published(folder, config, parts.tokenizer, transformer)
    return folder


def _small(recipe: Recipe, published: Path, tmp_path: Path) -> Path:
    """The recipe for the small published model of the tests, as a file. Context and jobs stay."""
    config = load(published).config
    sizes = config.tokenizer
    assert isinstance(sizes, CompressiveTokenizerConfig)
    tokenizer, transformer = recipe.tokenizer, recipe.transformer
    stages = len(tokenizer.model.channels) - len(sizes.channels)  # type: ignore[union-attr]
    changes = {
        "resolution": 128 if stages else 64,  # of five stages, for which 256 pixels take long
        "max_attention_resolution": 16,
        "channels": (8,) * len(tokenizer.model.channels) if stages else sizes.channels,  # type: ignore[union-attr]
        "norm_groups": 8 if stages else sizes.norm_groups,
        "layers_per_block": sizes.layers_per_block,
        "latent_channels": sizes.latent_channels,
        "context_codes": sizes.context_codes,
        "dynamics_codes": sizes.dynamics_codes,
    }
    initial = None if stages else str(published)
    model = dataclasses.replace(tokenizer.model, **changes)  # type: ignore[arg-type]
    own = dataclasses.replace(tokenizer, model=model, initial=tokenizer.initial and initial)
    job = dataclasses.replace(transformer.job, head_batches=1)
    other = dataclasses.replace(transformer, model=config.transformer, job=job, initial=transformer.initial and initial)
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe_to_dict(Recipe(own, other, recipe.about))), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_starts_on_converted_clips(
    name: str,
    published: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("worldgym.training.transformer.HEAD_ROWS", 2)  # segments imagined to fit the heads
    recipe = _load(name)
    small = load_recipe(_small(recipe, published, tmp_path))
    rng, length = np.random.default_rng(0), recipe.transformer.job.action_dim or 3
    for place in ("train/a", "train/b", "held-out/c"):
        path = tmp_path / "clips" / f"{place}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        colours = rng.integers(0, 256, (FRAMES, 1, 1, 3))
        frames = np.broadcast_to(colours, (FRAMES, 32, 32, 3)).astype(np.uint8)
        np.savez_compressed(path, image=frames, action=rng.uniform(-1, 1, (FRAMES, length)))
    size = small.tokenizer.model.resolution
    for part in ("train", "held-out"):
        command = f"convert npz {tmp_path}/clips/{part} --out {tmp_path}/data/{part} --resolution {size} --workers 1"
        assert main(command.split()) == 0
    data = f"--data {tmp_path}/data/train --held-out {tmp_path}/data/held-out --out {tmp_path}/out"
    command = f"train --recipe {tmp_path}/recipe.json {data} --steps 1 --batch-size 2 --device cpu"
    assert main(command.split()) == 0, capsys.readouterr().err
    config = load_world_model_run(tmp_path / "out" / "tokenizer", tmp_path / "out" / "transformer").world_model.config
    job = recipe.transformer.job
    assert (config.action_dim, config.goal_conditioned) == (job.action_dim, job.goal_conditioned)
    assert config.context_length == recipe.tokenizer.model.context_length
    assert Recordings(tmp_path / "data" / "train").action_dim == length
    started = json.loads((tmp_path / "out" / "transformer" / CONFIG).read_text())["initial"]
    if recipe.transformer.initial is not None and size == 64:
        changes = ["new: action projection (zeros)"] if job.action_dim else []
        assert [change for change in started["changes"] if "projection" in change] == changes
