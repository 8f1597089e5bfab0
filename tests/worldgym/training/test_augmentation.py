import colorsys
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance
from torch import Tensor

from worldgym.config import WorldModelConfig
from worldgym.data.recordings import Recordings, to_uint8, to_unit
from worldgym.errors import ConfigError
from worldgym.parallel import WHOLE, Part
from worldgym.tokenizer import build_tokenizer
from worldgym.training.augmentation import Colours, augment, crop, draw_boxes, draw_colours, recolour
from worldgym.training.recipe import Recipe
from worldgym.training.tokenizer import TokenizerTrainer, TokenizerTrainingConfig
from worldgym.training.trained import load_tokenizer_run
from worldgym.training.transformer import TransformerTrainer
from worldgym.transformer.transformer import Transformer

SIDE = 32
PAPER = {"random_crops": 0.2, "random_colours": 0.1}
ORDER = np.arange(4)[None]


def frames(clips: int, length: int) -> Tensor:
    """Random pictures, each repeated over its clip: uint8 ``[B, L, S, S, 3]``."""
    pictures = np.random.default_rng(0).integers(0, 256, (clips, 1, SIDE, SIDE, 3), dtype=np.uint8)
    return torch.from_numpy(pictures).expand(-1, length, -1, -1, -1).contiguous()


def augmented(clips: Tensor, seed: int = 0, part: Part = WHOLE) -> Tensor:
    return augment(clips, 0.2, 0.1, np.random.default_rng(seed), part)


def test_all_frames_of_a_clip_change_alike_and_clips_differ() -> None:
    clips = frames(1, 3).expand(6, -1, -1, -1, -1)
    found = augmented(clips)
    assert found.dtype == torch.uint8
    assert found.shape == clips.shape
    assert torch.equal(found[:, :1].expand_as(found), found)
    assert len({clip.numpy().tobytes() for clip in found}) == 6


def test_what_stands_still_keeps_its_colour_while_the_rest_gets_darker() -> None:
    clip = frames(1, 2)
    clip[:, 1, SIDE // 2 :] //= 4
    found = recolour(to_unit(clip), draw_colours(np.random.default_rng(0), 1, 0.9))
    assert torch.equal(found[0, 0, :, : SIDE // 2], found[0, 1, :, : SIDE // 2])


def test_equal_seeds_change_clips_alike() -> None:
    clips = frames(4, 2)
    assert torch.equal(augmented(clips), augmented(clips))
    assert not torch.equal(augmented(clips), augmented(clips, seed=1))


def test_parts_of_a_batch_change_as_in_the_whole() -> None:
    clips = frames(6, 2)
    parts = [augmented(clips[part.of(6)], part=part) for part in (Part(0, 3), Part(1, 3), Part(2, 3))]
    assert torch.equal(torch.cat(parts), augmented(clips))


def test_nothing_is_drawn_or_changed_where_it_is_off() -> None:
    clips, rng = frames(2, 2), np.random.default_rng(0)
    assert augment(clips, 0, 0, rng) is clips
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state
    whole = np.array([[0, 0, SIDE, SIDE]] * 2)
    assert torch.equal(to_uint8(crop(to_unit(clips), whole)), clips)
    same = recolour(to_unit(clips), Colours(np.array([[1.0, 1, 1, 0]] * 2), ORDER.repeat(2, axis=0)))
    assert torch.equal(to_uint8(same), clips)


@pytest.mark.parametrize("crops", [0.2, 0.9])
def test_crops_are_inside_the_frame_and_as_large_as_said(crops: float) -> None:
    boxes = draw_boxes(np.random.default_rng(0), 2000, 200, crops)
    top_left, sizes = boxes[:, :2], boxes[:, 2:]
    assert (top_left >= 0).all()
    assert (top_left + sizes <= 200).all()
    shares, ratios = sizes.prod(axis=1) / 200**2, sizes[:, 1] / sizes[:, 0]
    assert 1 - crops - 0.01 < shares.min() < 1 - 0.95 * crops
    assert shares.max() > 0.97
    assert 1 - crops / 2 - 0.03 < ratios.min() < 1 - 0.4 * crops
    assert 1 + 0.4 * crops < ratios.max() < 1 + crops / 2 + 0.03
    assert (top_left[:, 0] != top_left[:, 1]).mean() > 0.5


def test_a_crop_is_the_box_resized() -> None:
    images = to_unit(frames(2, 3))
    boxes = np.array([[3, 5, 25, 21], [0, 1, 29, 31]])
    for clip, found, (top, left, height, width) in zip(images, crop(images, boxes), boxes, strict=True):
        box = clip[:, :, top : top + height, left : left + width]
        expected = F.interpolate(box, (SIDE, SIDE), mode="bilinear", align_corners=False)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "enhancer"), [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)]
)
@pytest.mark.parametrize("factor", [0.6, 1.4])
def test_brightness_contrast_and_saturation_are_those_of_pillow(kind: int, enhancer: Any, factor: float) -> None:
    picture = frames(1, 1)
    amounts = np.array([[1.0, 1, 1, 0]])
    amounts[0, kind] = factor
    found = to_uint8(recolour(to_unit(picture), Colours(amounts, ORDER)))[0, 0].numpy().astype(int)
    expected = np.asarray(enhancer(Image.fromarray(picture[0, 0].numpy())).enhance(factor)).astype(int)
    assert abs(found - expected).max() <= 1  # Pillow rounds in between


@pytest.mark.parametrize("turns", [-0.3, 0.05, 0.5])
def test_the_hue_is_turned_as_in_hsv(turns: float) -> None:
    picture = frames(1, 1)
    picture[0, 0, 0] = 77  # grey
    found = recolour(to_unit(picture), Colours(np.array([[1.0, 1, 1, turns]]), ORDER))[0, 0]
    for row, column in ((0, 3), (1, 1), (7, 20), (13, 2), (31, 31)):
        hue, saturation, value = colorsys.rgb_to_hsv(*(picture[0, 0, row, column] / 255).tolist())
        expected = colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)
        assert found[:, row, column].tolist() == pytest.approx(expected, abs=1e-5)


def test_colours_are_changed_within_their_ranges_in_any_order() -> None:
    colours = draw_colours(np.random.default_rng(0), 1000, 0.1)
    low, high = colours.amounts.min(axis=0), colours.amounts.max(axis=0)
    assert low == pytest.approx([0.9, 0.9, 0.9, -0.05], abs=1e-3)
    assert high == pytest.approx([1.1, 1.1, 1.1, 0.05], abs=1e-3)
    assert len(np.unique(colours.order, axis=0)) == 24
    images = to_unit(frames(1, 1))
    one, other = (
        recolour(images, Colours(np.array([[1.5, 0.5, 1, 0]]), np.array([order])))
        for order in ([0, 1, 2, 3], [1, 0, 2, 3])
    )
    assert not torch.allclose(one, other, atol=0.01)


@pytest.mark.parametrize(("name", "value"), [("random_crops", 1.0), ("random_colours", -0.1), ("random_crops", np.nan)])
def test_settings_outside_their_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{name}: expected a number in \[0, 1\), got {value}"):
        TokenizerTrainingConfig(**{name: value})  # type: ignore[arg-type]


def test_a_tokenizer_is_trained_on_changed_clips(recipe: Recipe, recordings: Recordings, held_out: Recordings) -> None:
    torch.manual_seed(0)
    model = build_tokenizer(recipe.tokenizer.model).eval()
    job = dataclasses.replace(recipe.tokenizer.job, **PAPER)  # type: ignore[arg-type]
    plain, changed = (TokenizerTrainer(model, each, 4, recordings, held_out) for each in (recipe.tokenizer.job, job))
    rng = np.random.default_rng(0)
    clips = changed.read(rng)
    assert torch.equal(clips, plain.read(np.random.default_rng(0)))
    expected = plain.loss(np.random.default_rng(0), data=augment(clips, 0.2, 0.1, rng))[1]
    assert changed.loss(np.random.default_rng(0))[1] == expected
    assert plain.loss(np.random.default_rng(0))[1] != expected


def test_a_transformer_is_trained_on_codes_of_changed_segments(
    recipe: Recipe, tokenizer_run: Path, recordings: Recordings, held_out: Recordings
) -> None:
    config, tokenizer, *_ = load_tokenizer_run(tokenizer_run)
    world_config = WorldModelConfig(config, recipe.transformer.model, recordings.action_dim, reward=True)
    model = Transformer.build(world_config).eval()
    job = dataclasses.replace(recipe.transformer.job, **PAPER)  # type: ignore[arg-type]
    plain, changed = (
        TransformerTrainer(model, tokenizer, world_config, each, 8, recordings, held_out)
        for each in (recipe.transformer.job, job)
    )
    expected, _ = plain._sample(np.random.default_rng(0), WHOLE)
    found, _ = changed._sample(np.random.default_rng(0), WHOLE)
    assert found.weights is not None
    assert torch.equal(found.actions, expected.actions)
    assert torch.equal(found.weights, expected.weights)  # type: ignore[arg-type]
    assert found.context.shape == expected.context.shape
    assert (found.context != expected.context).any(dim=2).any(dim=1).sum() >= 2  # few codes are used after few updates
    assert not changed._encoded  # the next crop is another one
    parts = [changed._sample(np.random.default_rng(0), Part(index, 2))[0].future for index in (0, 1)]
    assert torch.equal(torch.cat(parts), found.future)
