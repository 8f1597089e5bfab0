"""A tokenizer that encodes every frame without any other: what the compressive one is compared with (figure 9c).

Encoder, decoder and the cutting of latents into patches are those of the published tokenizer. Context and future frames
share one codebook, but not their ids.
"""

import torch
from torch import Tensor, nn

from worldgym.config import IndependentTokenizerConfig
from worldgym.tokenizer.base import ContextFeatures, Tokenizer, TokenizerOutput, check_frames
from worldgym.tokenizer.compressive import Decoder, Encoder, from_patches, to_patches
from worldgym.tokenizer.quantizer import VectorQuantizer


class IndependentTokenizer(Tokenizer):
    """Encodes any frame as ``grid * grid`` codes. There are no features of the context."""

    def __init__(self, config: IndependentTokenizerConfig) -> None:
        super().__init__()
        self.config, self.layout, self.resolution = config, config.layout, config.resolution
        dim, self.patch_size = config.latent_channels, config.network.latent_size // config.grid
        self.encoder, self.decoder = Encoder(config.network), Decoder(config.network)
        self.quant_linear = nn.Linear(dim * self.patch_size**2, dim)
        self.quantize = VectorQuantizer(config.codes, dim)
        self.post_quant_linear = nn.Linear(dim, dim * self.patch_size**2)

    def encode_context(self, frames: Tensor) -> tuple[Tensor, ContextFeatures]:
        """Context frames ``[B, C, 3, H, W]`` to codes ``[B, C, grid * grid]``."""
        check_frames(frames, self.resolution, self.config.context_length)
        return self._codes(frames), ContextFeatures(())

    def encode_future(self, frames: Tensor, features: ContextFeatures) -> Tensor:
        """Future frames ``[B, T, 3, H, W]`` to codes ``[B, T, grid * grid]``."""
        check_frames(frames, self.resolution)
        return self._codes(frames)

    def decode_future(self, codes: Tensor, features: ContextFeatures) -> Tensor:
        """Codes ``[B, T, grid * grid]`` to frames ``[B, T, 3, H, W]``, not clamped."""
        return torch.unflatten(self._frames(self.quantize.lookup(codes.flatten(0, 1))), 0, codes.shape[:2])

    @property
    def last_layer(self) -> nn.Conv2d:
        return self.decoder.conv_out

    @property
    def peak_floats(self) -> int:
        return 6 * self.config.channels[0] * self.resolution**2  # as the published one

    def codebooks(self) -> tuple[Tensor, Tensor]:
        return self.quantize.embedding.weight, self.quantize.embedding.weight

    def forward(self, frames: Tensor) -> TokenizerOutput:
        """Encode, quantise and decode a clip ``[B, C + T, 3, H, W]``; see the base class."""
        check_frames(frames, self.resolution)
        quantized = self.quantize(self._latents(frames))
        decoded = torch.unflatten(self._frames(quantized.latents), 0, frames.shape[:2])
        codes = torch.unflatten(quantized.codes, 0, frames.shape[:2])
        split = self.config.context_length
        return TokenizerOutput(
            context=decoded[:, :split],
            future=decoded[:, split:],
            context_codes=codes[:, :split],
            dynamics_codes=codes[:, split:],
            commit_loss=quantized.commit_loss,
            dynamics_commit_loss=torch.zeros_like(quantized.commit_loss),
        )

    def _codes(self, frames: Tensor) -> Tensor:
        return torch.unflatten(self.quantize.codes(self._latents(frames)), 0, frames.shape[:2])

    def _latents(self, frames: Tensor) -> Tensor:
        """``[B, T, 3, H, W]`` to latents ``[B * T, grid * grid, D]``."""
        latents, _ = self.encoder(frames.flatten(0, 1))
        projected: Tensor = self.quant_linear(to_patches(latents, self.patch_size))
        return projected

    def _frames(self, latents: Tensor) -> Tensor:
        """Quantised latents ``[N, grid * grid, D]`` to frames ``[N, 3, H, W]``."""
        patches: Tensor = self.post_quant_linear(latents)
        return self.decoder.finish(self.decoder.maps(from_patches(patches, self.patch_size))[-1])
