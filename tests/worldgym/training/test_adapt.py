"""Starting from a checkpoint with other actions, context or frames: what must not change does not."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from worldgym.config import (
    CompactTokenizerConfig,
    CompressiveTokenizerConfig,
    TokenizerConfig,
    TransformerConfig,
    WorldModelConfig,
)
from worldgym.data.recordings import Recordings
from worldgym.errors import ConfigError
from worldgym.tokenizer import build_tokenizer
from worldgym.tokenizer.base import Tokenizer
from worldgym.training.initial import start_from
from worldgym.transformer.transformer import Transformer
from worldgym.world_model import WorldModel

COMPACT = CompactTokenizerConfig(
    resolution=32,
    width=8,
    depth=1,
    context_grid=4,
    frame_grid=2,
    latent_channels=4,
    context_codes=16,
    dynamics_codes=16,
)
PLACED = TransformerConfig(layers=1, heads=2, hidden_size=16, mlp_size=24, max_positions=400, place_embeddings=True)
MakeModel = Callable[..., WorldModel]


@pytest.fixture
def start(tmp_path: Path, held_out: Recordings) -> Callable[..., Any]:
    """Save a model, start another part from it, and return that with the changes that were reported."""

    def run(source: WorldModel, model: Any, config: Any) -> tuple[Any, list[str]]:
        source.save_pretrained(tmp_path / "source")
        changes = start_from(str(tmp_path / "source"), model, config, held_out).about["changes"]
        return model.eval(), changes

    return run


def _compact(config: CompactTokenizerConfig) -> Tokenizer:
    torch.manual_seed(1)
    tokenizer = build_tokenizer(config)
    for weight in tokenizer.parameters():  # the decoder, too, must depend on everything
        torch.nn.init.normal_(weight, std=0.3)
    return tokenizer.eval()


def _world(tokenizer: Tokenizer, config: TokenizerConfig, transformer: TransformerConfig = PLACED) -> WorldModel:
    whole = WorldModelConfig(config, transformer)
    torch.manual_seed(2)
    return WorldModel(whole, tokenizer, Transformer.build(whole))


def _equal_but(new: torch.nn.Module, old: torch.nn.Module, *changed: str) -> None:
    """All weights are equal, apart from those whose names end so."""
    ours, theirs = new.state_dict(), old.state_dict()
    different = {name for name in ours if name not in theirs or not torch.equal(ours[name], theirs[name])}
    assert all(name.endswith(changed) for name in different), different
    assert {end for end in changed if any(name.endswith(end) for name in different)} == set(changed)


def _frames(count: int, size: int = 32) -> Tensor:
    return torch.rand(2, count, 3, size, size, generator=torch.Generator().manual_seed(3))


def _rollout(model: WorldModel, actions: Tensor | None) -> Any:
    frames = (255 * _frames(2).movedim(2, -1)).to(torch.uint8)
    return model.rollout(frames, actions, top_k=1, horizon=3 if actions is None else None)


def test_an_action_free_model_gets_actions_and_imagines_as_before(make_model: MakeModel, start: Any) -> None:
    old = make_model(action_dim=0, reward=False)
    config = dataclasses.replace(old.config, action_dim=3, reward=True)
    new, changes = start(old, Transformer.build(config), config)
    _equal_but(
        new, old.transformer, "action_linear.weight", "action_linear.bias", "reward_linear.weight", "reward_linear.bias"
    )
    assert changes == ["action_dim 3 instead of 0", "new: action projection (zeros)", "new: reward head"]
    assert not new.action_linear.weight.any()
    imagined = _rollout(WorldModel(config, old.tokenizer, new), torch.randn(2, 3, 3))
    assert torch.equal(imagined.tokens, _rollout(old, None).tokens)


@pytest.mark.parametrize("length", [2, 5])
def test_other_actions_start_as_actions_of_zeros(length: int, make_model: MakeModel, start: Any) -> None:
    old = make_model()
    assert old.transformer.action_linear is not None
    torch.nn.init.normal_(old.transformer.action_linear.bias)
    config = dataclasses.replace(old.config, action_dim=length)
    new, changes = start(old, Transformer.build(config), config)
    _equal_but(new, old.transformer, "action_linear.weight")
    assert changes == [f"action_dim {length} instead of 3", "new: action projection (zeros)"]
    imagined = _rollout(WorldModel(config, old.tokenizer, new), torch.randn(2, 3, length))
    assert torch.equal(imagined.tokens, _rollout(old, torch.zeros(2, 3, 3)).tokens)


def test_actions_cannot_be_taken_away(make_model: MakeModel, start: Any) -> None:
    config = dataclasses.replace(make_model().config, action_dim=0)
    with pytest.raises(ConfigError, match=r"source: expected a checkpoint without actions.*action_dim=3"):
        start(make_model(), Transformer.build(config), config)


def test_more_context_frames_start_as_repetitions_of_the_oldest(make_model: MakeModel, start: Any) -> None:
    config = dataclasses.replace(make_model().config.tokenizer, context_length=1)
    old = make_model(tokenizer=config)
    for name, weight in old.tokenizer.named_parameters():
        if name.endswith("pos_emb"):
            torch.nn.init.normal_(weight)
    two = dataclasses.replace(config, context_length=2)
    new, changes = start(old, build_tokenizer(two), two)
    assert changes == ["context_length 2 instead of 1"]
    _equal_but(new, old.tokenizer, "kv_pos_emb")
    clip = _frames(3)
    with torch.no_grad():
        expected, got = old.tokenizer.eval()(clip), new(torch.cat([clip[:, :1], clip], dim=1))
    torch.testing.assert_close(got.future, expected.future, rtol=1e-4, atol=1e-5)
    assert torch.equal(got.dynamics_codes, expected.dynamics_codes)


def test_fewer_context_frames_keep_the_newest_position_embeddings(make_model: MakeModel, start: Any) -> None:
    old = make_model()
    for name, weight in old.tokenizer.named_parameters():
        if name.endswith("pos_emb"):
            torch.nn.init.normal_(weight)
    one = dataclasses.replace(old.config.tokenizer, context_length=1)
    new, _ = start(old, build_tokenizer(one), one)
    _equal_but(new, old.tokenizer, "kv_pos_emb")
    for name, weight in new.state_dict().items():
        if name.endswith("kv_pos_emb"):
            assert torch.equal(weight, old.tokenizer.state_dict()[name][-len(weight) :])


def test_the_compact_tokenizer_starts_without_its_new_context_frame(start: Any) -> None:
    old = _compact(COMPACT)
    three = dataclasses.replace(COMPACT, context_length=3)
    new, changes = start(_world(old, COMPACT), build_tokenizer(three), three)
    assert changes == ["context_length 3 instead of 2"]
    clip = _frames(5)
    with torch.no_grad():
        expected, got = old(clip[:, 1:]), new(clip)
    torch.testing.assert_close(got.future, expected.future)


def test_the_compact_tokenizer_with_less_context_is_that_of_a_repeated_frame(start: Any) -> None:
    old = _compact(COMPACT)
    one = dataclasses.replace(COMPACT, context_length=1)
    new, _ = start(_world(old, COMPACT), build_tokenizer(one), one)
    clip = _frames(3)
    with torch.no_grad():
        expected, got = old(torch.cat([clip[:, :1], clip], dim=1)), new(clip)
    torch.testing.assert_close(got.future, expected.future, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("context", "rows"), [(1, [17, *range(18, 33)]), (3, [*range(16), 16, *range(16), *range(16, 33)])]
)
def test_places_follow_the_context_frames(context: int, rows: list[int], start: Any) -> None:
    source = _world(_compact(COMPACT), COMPACT)  # frames of 16 codes: rows 0-15, slot 16, 17-32, and 5 of future frames
    config = dataclasses.replace(source.config, tokenizer=dataclasses.replace(COMPACT, context_length=context))
    new, _ = start(source, Transformer.build(config), config)
    _equal_but(new, source.transformer, "place_embedding.weight")
    old = source.transformer.state_dict()["place_embedding.weight"]
    assert torch.equal(new.state_dict()["place_embedding.weight"], old[[*rows, *range(33, 38)]])


def test_larger_frames_interpolate_position_embeddings_alone(make_model: MakeModel, start: Any) -> None:
    old = make_model()
    for name, weight in old.tokenizer.named_parameters():
        if name.endswith("pos_emb"):  # a slope from row to row
            frames = 2 if name.endswith("kv_pos_emb") else 1
            weight.data = torch.arange(8.0).repeat_interleave(8).repeat(frames)[:, None].expand_as(weight).clone()
    larger = dataclasses.replace(old.config.tokenizer, resolution=64, max_attention_resolution=16)
    new, changes = start(old, build_tokenizer(larger), larger)
    assert changes == ["resolution 64 instead of 32", "max_attention_resolution 16 instead of 8"]
    _equal_but(new, old.tokenizer, "kv_pos_emb", "q_pos_emb")
    slope = new.state_dict()["cond_encoder.cross_att_blocks.0.kv_pos_emb"].unflatten(0, (2, 16, 16))
    torch.testing.assert_close(slope[1, 2:14, 5, 0], torch.arange(0.75, 6.5, 0.5))
    assert new(_frames(4, 64)).future.shape == (2, 2, 3, 64, 64)


def test_larger_frames_of_the_compact_tokenizer_need_larger_grids(start: Any) -> None:
    source = _world(_compact(COMPACT), COMPACT)
    larger = dataclasses.replace(COMPACT, resolution=64, context_grid=8, frame_grid=4)
    new, _ = start(source, build_tokenizer(larger), larger)
    assert new(_frames(4, 64)).future.shape == (2, 2, 3, 64, 64)
    coarse = dataclasses.replace(COMPACT, resolution=64)
    with pytest.raises(ConfigError, match=r"resolution 64 instead of 32.*context_encoder.out.weight.*in proportion"):
        start(source, build_tokenizer(coarse), coarse)
    config = dataclasses.replace(source.config, tokenizer=larger, transformer=dataclasses.replace(PLACED))
    with pytest.raises(ConfigError, match=r"expected frames of 16 and 4 codes.*keep the resolution"):
        start(source, Transformer.build(config), config)


def test_attention_at_other_layers_is_refused(make_model: MakeModel, start: Any) -> None:
    tokenizer = make_model().config.tokenizer
    assert isinstance(tokenizer, CompressiveTokenizerConfig)
    fewer = dataclasses.replace(tokenizer, max_attention_resolution=4)
    with pytest.raises(ConfigError, match=r"cross_att_blocks.*not here"):
        start(make_model(), build_tokenizer(fewer), fewer)


@pytest.mark.parametrize("name", ["context_codes", "dynamics_codes"])
def test_other_codes_are_refused(name: str, make_model: MakeModel, start: Any) -> None:
    old = make_model().config
    config = dataclasses.replace(old, tokenizer=dataclasses.replace(old.tokenizer, **{name: 30}))
    for part, about in ((build_tokenizer(config.tokenizer), config.tokenizer), (Transformer.build(config), config)):
        with pytest.raises(ConfigError, match=f"{name}: 2. there, 30 here.*may differ"):
            start(make_model(), part, about)
