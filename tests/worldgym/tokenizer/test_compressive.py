import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from worldgym.config import CompressiveTokenizerConfig
from worldgym.errors import ConfigError, InvalidFrames
from worldgym.tokenizer.compressive import CompressiveTokenizer, config_from_published, from_patches, to_patches

PARITY = Path(__file__).parents[2] / "parity" / "ctx2-64px"
LARGE = CompressiveTokenizerConfig(resolution=256, channels=(128, 256, 256, 512, 768), max_attention_resolution=32)


def published_values() -> dict[str, Any]:
    values: dict[str, Any] = json.loads((PARITY / "tokenizer" / "config.json").read_text())
    return values


@pytest.fixture(scope="module")
def published() -> CompressiveTokenizer:
    tokenizer = CompressiveTokenizer(config_from_published(published_values(), "config.json")).eval()
    tokenizer.load_state_dict(load_file(PARITY / "tokenizer" / "diffusion_pytorch_model.safetensors"), strict=True)
    return tokenizer


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(PARITY / "expected.safetensors")


def small(**changes: Any) -> CompressiveTokenizer:
    options: dict[str, Any] = {
        "resolution": 32,
        "channels": (8, 8, 16),
        "layers_per_block": 1,
        "latent_channels": 4,
        "context_codes": 20,
        "dynamics_codes": 24,
        "max_attention_resolution": 8,
        "norm_groups": 4,
    }
    torch.manual_seed(0)
    return CompressiveTokenizer(CompressiveTokenizerConfig(**{**options, **changes}))


@torch.no_grad()
def test_tokens_are_those_of_the_reference(published: CompressiveTokenizer, expected: dict[str, torch.Tensor]) -> None:
    video = expected["video"]
    context, features = published.encode_context(video[:, :2])
    future = published.encode_future(video[:, 2:], features)
    assert torch.equal(published.layout.sequence(context, future), expected["tokens"])


@torch.no_grad()
def test_reconstruction_is_that_of_the_reference(
    published: CompressiveTokenizer, expected: dict[str, torch.Tensor]
) -> None:
    video = expected["video"]
    _, features = published.encode_context(video[:, :2])
    future = published.decode_future(published.encode_future(video[:, 2:], features), features)
    frames = torch.cat([published(video).context, future], dim=1)
    torch.testing.assert_close(frames, expected["reconstruction"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_training_pass_is_that_of_the_reference(
    published: CompressiveTokenizer, expected: dict[str, torch.Tensor]
) -> None:
    output = published(expected["video"])
    for actual, name in (
        (output.future.flatten(0, 1), "train_future"),
        (output.context.flatten(0, 1), "train_context"),
        (output.commit_loss[None], "commit_loss"),
        (output.dynamics_commit_loss[None], "dynamics_commit_loss"),
    ):
        torch.testing.assert_close(actual, expected[name], atol=1e-4, rtol=0)
    tokens = published.layout.sequence(output.context_codes, output.dynamics_codes)
    assert torch.equal(tokens, expected["tokens"])


@torch.no_grad()
def test_frames_one_at_a_time_equal_frames_together(
    published: CompressiveTokenizer, expected: dict[str, torch.Tensor]
) -> None:
    video = expected["video"]
    _, features = published.encode_context(video[:, :2])
    together = published.encode_future(video[:, 2:], features)
    alone = [published.encode_future(video[:, t : t + 1], features) for t in range(2, 5)]
    assert torch.equal(torch.cat(alone, dim=1), together)
    decoded = [published.decode_future(codes, features) for codes in alone]
    torch.testing.assert_close(
        torch.cat(decoded, dim=1), published.decode_future(together, features), atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_features_are_selected_by_clip(published: CompressiveTokenizer, expected: dict[str, torch.Tensor]) -> None:
    video, rows = expected["video"], torch.tensor([1, 0, 1])
    _, features = published.encode_context(video[:, :2])
    codes = published.encode_future(video[:, 2:], features)
    selected = published.decode_future(codes[rows], features.select(rows))
    torch.testing.assert_close(selected, published.decode_future(codes, features)[rows], atol=1e-5, rtol=0)


def test_decoding_a_future_frame_does_not_run_the_context_decoder_again(
    published: CompressiveTokenizer, expected: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, features = published.encode_context(expected["video"][:, :2])
    for part in (published.encoder, published.decoder):
        monkeypatch.setattr(part, "conv_in", None)
    codes = published.encode_future(expected["video"][:, 2:], features)
    assert published.decode_future(codes, features).shape == (2, 3, 3, 64, 64)


@pytest.mark.parametrize(("config", "parameters"), [(CompressiveTokenizerConfig(), 114_159_174), (LARGE, 310_472_774)])
def test_parameter_counts_of_the_published_sizes(config: CompressiveTokenizerConfig, parameters: int) -> None:
    with torch.device("meta"):
        tokenizer = CompressiveTokenizer(config)
    assert sum(weight.numel() for weight in tokenizer.parameters()) == parameters


@pytest.mark.parametrize("context_length", [1, 2, 3])
def test_context_lengths(context_length: int) -> None:
    tokenizer = small(context_length=context_length).eval()
    frames = torch.rand(2, context_length + 2, 3, 32, 32)
    context, features = tokenizer.encode_context(frames[:, :context_length])
    future = tokenizer.encode_future(frames[:, context_length:], features)
    assert context.shape == (2, context_length, 64)
    assert future.shape == (2, 2, 4)
    assert tokenizer.decode_future(future, features).shape == (2, 2, 3, 32, 32)
    output = tokenizer(frames)
    assert output.context.shape == (2, context_length, 3, 32, 32)
    torch.testing.assert_close(output.future, tokenizer.decode_future(future, features), atol=1e-5, rtol=1e-5)
    assert torch.equal(output.context_codes, context)
    assert torch.equal(output.dynamics_codes, future)


@pytest.mark.parametrize(
    ("resolution", "channels", "limit"),
    [(16, (8, 8), 16), (48, (8, 8, 16), 24), (48, (8, 8, 16), 4), (64, (8, 8, 8, 8, 16), 32)],
)
def test_resolutions_and_attention_limits(resolution: int, channels: tuple[int, ...], limit: int) -> None:
    tokenizer = small(resolution=resolution, channels=channels, max_attention_resolution=limit)
    output = tokenizer(torch.rand(1, 3, 3, resolution, resolution))
    assert output.context.shape == (1, 2, 3, resolution, resolution)
    assert output.future.shape == (1, 1, 3, resolution, resolution)


def test_gradients_reach_every_weight_but_the_codebooks() -> None:
    tokenizer = small()
    output = tokenizer(torch.rand(2, 4, 3, 32, 32))
    loss = output.context.square().mean() + output.future.square().mean()
    (loss + output.commit_loss + output.dynamics_commit_loss).backward()
    without = {name for name, weight in tokenizer.named_parameters() if weight.grad is None}
    assert without == {"quantize.embedding.weight", "dynamics_quantize.embedding.weight"}


def test_training_lowers_the_loss() -> None:
    tokenizer = small()
    frames = torch.rand(2, 4, 3, 32, 32)
    optimizer = torch.optim.Adam((p for p in tokenizer.parameters() if p.requires_grad), lr=3e-3)
    losses = []
    for _ in range(30):
        output = tokenizer(frames)
        error = (output.context - frames[:, :2]).abs().mean() + (output.future - frames[:, 2:]).abs().mean()
        loss = error + output.commit_loss + output.dynamics_commit_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(error.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_half_precision_under_autocast() -> None:
    tokenizer = small()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = tokenizer(torch.rand(1, 3, 3, 32, 32))
    (output.future.float().mean() + output.dynamics_commit_loss).backward()
    assert output.commit_loss.dtype == torch.float32


def test_patches_are_inverted() -> None:
    maps = torch.rand(2, 5, 8, 8)
    patches = to_patches(maps, 4)
    assert patches.shape == (2, 4, 80)
    assert torch.equal(patches[:, 1, 5:10], maps[:, :, 0, 5])
    assert torch.equal(from_patches(patches, 4), maps)


FRAMES = {
    "rank": (torch.rand(2, 3, 32, 32), r"\[B, 2, 3, 32, 32\], got \[2, 3, 32, 32\]"),
    "channels last": (torch.rand(1, 2, 32, 32, 3), r"got \[1, 2, 32, 32, 3\]: put .* channels third"),
    "size": (torch.rand(1, 2, 3, 16, 16), r"got \[1, 2, 3, 16, 16\]: .* resize to 32 pixels"),
    "count": (torch.rand(1, 3, 3, 32, 32), r"expected float frames .*\[B, 2, .*got \[1, 3, "),
    "dtype": (torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8), r"got torch.uint8: .*/ 255"),
}


@pytest.mark.parametrize(("frames", "message"), FRAMES.values(), ids=FRAMES)
def test_unfit_context_frames_are_refused(frames: torch.Tensor, message: str) -> None:
    with pytest.raises(InvalidFrames, match=message):
        small().encode_context(frames)


def test_unfit_future_frames_are_refused() -> None:
    tokenizer = small().eval()
    _, features = tokenizer.encode_context(torch.rand(2, 2, 3, 32, 32))
    unfit: list[tuple[Callable[[], Any], str]] = [
        (lambda: tokenizer(torch.rand(2, 2, 3, 32, 32)), "at least one future frame"),
        (lambda: tokenizer(torch.rand(2, 1, 3, 32, 32)), "at least one future frame"),
        (lambda: tokenizer(torch.rand(2, 4, 3, 32, 16)), r"T >= 1.*got \[2, 4, 3, 32, 16\]"),
        (lambda: tokenizer.encode_future(torch.rand(2, 0, 3, 32, 32), features), r"T >= 1.*got \[2, 0"),
        (lambda: tokenizer.encode_future(torch.rand(3, 1, 3, 32, 32), features), "features of 3 clips, got those of 2"),
        (lambda: tokenizer.decode_future(torch.zeros(3, 1, 4).long(), features), "3 clips, got those of 2"),
    ]
    for call, message in unfit:
        with pytest.raises(InvalidFrames, match=message):
            call()


def test_published_config_of_the_fixture() -> None:
    config = config_from_published(published_values(), "config.json")
    assert config == CompressiveTokenizerConfig(
        channels=(32, 32, 64), layers_per_block=1, latent_channels=8, context_codes=40, dynamics_codes=56
    )


def test_published_config_entries_that_may_be_absent() -> None:
    values = published_values()
    for name in ("resolution", "max_att_resolution", "patch_size", "context_length", "norm_num_groups", "norm_type"):
        del values[name]
    config = config_from_published(values, "config.json")
    assert (config.resolution, config.max_attention_resolution, config.context_length) == (256, 32, 1)


UNSUPPORTED = {
    "act_fn": "gelu",
    "norm_type": "spatial",
    "norm_num_groups": 16,
    "in_channels": 4,
    "out_channels": 1,
    "mid_block_add_attention": True,
    "vq_embed_dim": 32,
    "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "layers_per_block": "two",
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_published_config_entries_that_are_not_implemented_are_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^config\.json: {name}"):
        config_from_published({**published_values(), name: UNSUPPORTED[name]}, "config.json")


def test_published_config_with_unknown_or_missing_entries_is_refused() -> None:
    values = published_values()
    with pytest.raises(ConfigError, match="unknown entry 'patch_sizes'; did you mean 'patch_size'"):
        config_from_published({**values, "patch_sizes": 4}, "config.json")
    with pytest.raises(ConfigError, match="'num_vq_embeddings' is missing"):
        config_from_published({k: v for k, v in values.items() if k != "num_vq_embeddings"}, "config.json")
    with pytest.raises(ConfigError, match="block_out_channels: expected a list of numbers, got 5"):
        config_from_published({**values, "block_out_channels": 5}, "config.json")
