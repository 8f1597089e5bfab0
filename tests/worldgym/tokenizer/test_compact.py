from typing import Any

import pytest
import torch
from torch import Tensor

from worldgym.config import CompactTokenizerConfig
from worldgym.tokenizer.compact import FLOW_SCALE, CompactTokenizer, warp


def build(**changes: Any) -> CompactTokenizer:
    """A small tokenizer whose decoder, too, is far from its initial zeros."""
    options = {"width": 8, "depth": 1, "latent_channels": 4, "context_codes": 16, "dynamics_codes": 24, **changes}
    torch.manual_seed(0)
    tokenizer = CompactTokenizer(CompactTokenizerConfig(**options))
    for quantizer in (tokenizer.context_quantizer, tokenizer.dynamics_quantizer):
        torch.nn.init.normal_(quantizer.embedding.weight)
    torch.nn.init.normal_(tokenizer.decoder.out.weight, std=0.1)
    return tokenizer.eval()


def clip(length: int, resolution: int = 64, batch: int = 2) -> Tensor:
    return torch.rand(batch, length, 3, resolution, resolution, generator=torch.Generator().manual_seed(1))


SIZES = [
    {"context_length": 1},
    {"context_length": 2},
    {"context_length": 3},
    {"resolution": 128},
    {"resolution": 128, "context_grid": 16, "frame_grid": 8},
    {"resolution": 32, "context_grid": 4, "frame_grid": 2},
    {"resolution": 40, "context_grid": 5, "frame_grid": 1},
]


@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.no_grad()
def test_encoding_then_decoding_is_the_forward_pass(size: dict[str, int]) -> None:
    tokenizer = build(**size)
    layout, split, resolution = tokenizer.layout, tokenizer.config.context_length, tokenizer.resolution
    frames = clip(split + 2, resolution)
    out = tokenizer(frames)
    context_codes, features = tokenizer.encode_context(frames[:, :split])
    dynamics_codes = tokenizer.encode_future(frames[:, split:], features)
    assert context_codes.shape == (2, split, layout.tokens_per_context_frame)
    assert dynamics_codes.shape == (2, 2, layout.tokens_per_frame)
    assert torch.equal(context_codes, out.context_codes)
    assert torch.equal(dynamics_codes, out.dynamics_codes)
    assert 0 <= int(dynamics_codes.min()) <= int(dynamics_codes.max()) < layout.dynamics_codes
    torch.testing.assert_close(tokenizer.decode_future(dynamics_codes, features), out.future, atol=1e-4, rtol=1e-4)
    assert out.future.shape == (2, 2, 3, resolution, resolution)


@torch.no_grad()
def test_decoding_frame_by_frame_equals_decoding_together() -> None:
    tokenizer, frames = build(), clip(5)
    _, features = tokenizer.encode_context(frames[:, :2])
    codes = tokenizer.encode_future(frames[:, 2:], features)
    together = tokenizer.decode_future(codes, features)
    for step in range(3):
        alone = tokenizer.decode_future(codes[:, step : step + 1], features)
        torch.testing.assert_close(alone[:, 0], together[:, step], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_features_can_be_selected_by_row() -> None:
    tokenizer, frames = build(), clip(3, batch=3)
    _, features = tokenizer.encode_context(frames[:, :2])
    codes = tokenizer.encode_future(frames[:, 2:], features)
    rows = torch.tensor([2, 0])
    selected = tokenizer.decode_future(codes[rows], features.select(rows))
    torch.testing.assert_close(selected, tokenizer.decode_future(codes, features)[rows], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_unchanged_frame_has_latents_of_zero_before_they_are_scaled() -> None:
    tokenizer, frames = build(), clip(2)
    _, features = tokenizer.encode_context(frames)
    unchanged = tokenizer.encode_future(frames[:, -1:], features)
    scaled_zero = tokenizer.dynamics_spread(torch.zeros(1, 4, 4, 4))
    assert torch.equal(unchanged, tokenizer.dynamics_quantizer.codes(scaled_zero).expand_as(unchanged[:, 0])[:, None])


def test_every_weight_learns() -> None:
    tokenizer = build().train()
    out = tokenizer(clip(4))
    (out.context.sum() + out.future.square().sum() + out.commit_loss + out.dynamics_commit_loss).backward()
    without = [name for name, weight in tokenizer.named_parameters() if weight.requires_grad and weight.grad is None]
    assert without == []


def test_a_training_pass_changes_nothing_before_the_update() -> None:
    """If the loss is not finite, neither codebooks nor running statistics may change."""
    tokenizer = build().train()

    def everything() -> list[Tensor]:
        return [value.clone() for value in (*tokenizer.state_dict().values(), *tokenizer.buffers())]

    before = everything()
    tokenizer(torch.full_like(clip(4), float("nan")))
    assert all(map(torch.equal, everything(), before))
    tokenizer(clip(4))
    tokenizer.update_codebooks()
    changed = {
        name
        for name, value, old in zip(tokenizer.state_dict(), everything(), before, strict=False)
        if not torch.equal(value, old)
    }
    assert changed == {
        *(f"{name}_quantizer.embedding.weight" for name in ("context", "dynamics")),
        *(
            f"{name}_spread.norm.{statistic}"
            for name in ("context", "dynamics")
            for statistic in ("running_mean", "running_var", "num_batches_tracked")
        ),
    }


def test_a_new_decoder_keeps_the_newest_context_frame() -> None:
    torch.manual_seed(0)
    tokenizer = CompactTokenizer(CompactTokenizerConfig(width=8, depth=1, latent_channels=4)).eval()
    frames = clip(2)
    with torch.no_grad():
        codes, features = tokenizer.encode_context(frames)
        future = tokenizer.decode_future(torch.zeros(2, 1, 16, dtype=torch.int64), features)[:, 0]
    mask = torch.sigmoid(torch.tensor(-2.0))
    torch.testing.assert_close(future, mask * 0.5 + (1 - mask) * frames[:, -1], atol=1e-5, rtol=1e-5)
    assert codes.shape == (2, 2, 64)


def test_a_flow_of_zero_changes_nothing() -> None:
    image = torch.rand(2, 3, 8, 12)
    torch.testing.assert_close(warp(image, torch.zeros(2, 2, 8, 12)), image, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("x", "y"), [(1, 0), (0, 1), (-2, 3)])
def test_whole_flows_fetch_the_pixel_they_point_to(x: int, y: int) -> None:
    image = torch.rand(1, 3, 16, 16)
    flow = torch.tensor([x, y], dtype=torch.float32).view(1, 2, 1, 1).expand(1, 2, 16, 16)
    moved = warp(image, flow)
    torch.testing.assert_close(moved[..., 5, 6], image[..., 5 + y, 6 + x], atol=1e-4, rtol=1e-4)
    expected = image.roll((-y, -x), dims=(2, 3))[..., 4:12, 4:12]
    torch.testing.assert_close(moved[..., 4:12, 4:12], expected, atol=1e-4, rtol=1e-4)


def test_half_flows_mix_neighbours_and_edges_repeat() -> None:
    image = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 4, 8)
    moved = warp(image, torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 8))
    torch.testing.assert_close(moved[0, 0, 0], torch.tensor([0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.0]))
    far = warp(image, torch.full((1, 2, 4, 8), 10 * FLOW_SCALE))
    torch.testing.assert_close(far, torch.full_like(far, 7.0))
