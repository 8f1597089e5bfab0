"""Vector quantisation whose codebook is learned by online k-means, not by gradients.

Each training batch moves every code towards the mean of the latents that chose it (moving averages), and codes that
hardly anything chooses any more start anew on latents of the batch that no code is near. A new codebook is all such
codes, so the first batches initialise it. Codes are the same in evaluation as in the published weights: nearest
neighbours.

Weights hold the codebook alone. Exact resume also needs :func:`state_for_resume`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from worldgym.errors import CheckpointError


class Quantized(NamedTuple):
    """``latents`` ``[..., D]`` carry gradients straight through to the input, ``codes`` ``[...]`` are int64."""

    latents: Tensor
    codes: Tensor
    commit_loss: Tensor


class VectorQuantizer(nn.Module):
    """A codebook ``[K, D]``.

    Args:
        codes: number of codes, K.
        dim: dimension of latents and codes, D.
        beta: weight of the commitment loss.
        decay: of the moving averages, per batch.
        dead_below: a code used less than this share of the average one is replaced; 0 replaces none once placed.
        generator: draws the latents that replace dead codes, on the CPU; its own if not given.
    """

    usage: Tensor

    def __init__(
        self,
        codes: int,
        dim: int,
        *,
        beta: float = 1.0,
        decay: float = 0.99,
        dead_below: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.beta, self.decay, self.dead_below = beta, decay, dead_below
        self.generator = generator or torch.Generator(device="cpu")
        self.embedding = nn.Embedding(codes, dim)
        nn.init.uniform_(self.embedding.weight, -1 / codes, 1 / codes)
        self.embedding.weight.requires_grad_(False)
        # Latents per batch that chose each code, averaged; 0 marks a code that was never placed.
        self._pending: tuple[Tensor, Tensor] | None = None
        self.register_buffer("usage", torch.zeros(codes), persistent=False)

    def forward(self, latents: Tensor) -> Quantized:
        """Quantise ``[..., D]``; in training mode :meth:`apply_update` then moves the codebook."""
        if self.training and torch.isfinite(latents).all():
            self.revive(latents)
        codes = self.codes(latents)
        chosen = self.lookup(codes)
        distance = F.mse_loss(latents.float(), chosen.float())
        # The second term would train the codebook; its value is kept so that losses compare with published ones.
        commit_loss = self.beta * distance + distance.detach()
        self._pending = (latents.detach(), codes) if self.training else None
        return Quantized(latents + (chosen.to(latents.dtype) - latents).detach(), codes, commit_loss)

    def apply_update(self) -> None:
        """Move the codebook by the last forward pass in training mode; call it once the loss is finite."""
        if self._pending is not None:
            self.update(*self._pending)
            self._pending = None

    @torch.no_grad()
    def codes(self, latents: Tensor) -> Tensor:
        """The nearest code of each latent: ``[..., D]`` to int64 ``[...]``, worked out in float32."""
        with torch.autocast(latents.device.type, enabled=False):
            flat, codebook = self._flat(latents), self.embedding.weight.float()
            distance = torch.addmm(codebook.square().sum(1), flat, codebook.T, alpha=-2)
        return distance.argmin(1).view(latents.shape[:-1])

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes ``[...]`` to their vectors ``[..., D]``."""
        return F.embedding(codes, self.embedding.weight)

    @torch.no_grad()
    def update(self, latents: Tensor, codes: Tensor) -> None:
        """Move each code towards the mean of the latents ``[..., D]`` that chose it, ``codes`` ``[...]``."""
        flat, codes = self._flat(latents), codes.flatten()
        codebook = self.embedding.weight
        counts = _total(torch.bincount(codes, minlength=len(codebook)).float())
        sums = _total(torch.zeros_like(codebook, dtype=torch.float32).index_add_(0, codes, flat))
        self.usage.lerp_(counts, 1 - self.decay)
        step = (1 - self.decay) * (sums - counts[:, None] * codebook)
        codebook.add_(step / self.usage[:, None].clamp(min=1e-12))

    @torch.no_grad()
    def revive(self, latents: Tensor) -> int:
        """Put dead codes onto latents of ``[..., D]`` that stand far from all codes; the number of codes moved.

        With several processes all of them must call this with equally many latents; the first one's are taken.
        """
        dead = self.usage <= self.dead_below * self.usage.mean()
        if not dead.any():
            return 0
        flat, codebook = self._flat(latents), self.embedding.weight
        rows = dead.nonzero()[: len(flat), 0]
        chosen = flat[scattered(flat, codebook[~dead].float(), len(rows), self.generator).to(flat.device)]
        if _processes() > 1:
            dist.broadcast(chosen, src=0)
        codebook[rows] = chosen.to(codebook.dtype)
        self.usage[rows] = len(flat) * _processes() / len(self.usage)
        return len(rows)

    def _flat(self, latents: Tensor) -> Tensor:
        return latents.detach().flatten(0, -2).float()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        weight = state_dict.get(prefix + "embedding.weight")
        if weight is not None:  # a loaded codebook is alive as a whole; the data will tell which codes they use
            device = weight.device if self.usage.is_meta else self.usage.device
            self.usage = torch.ones(self.usage.shape, device=device)
        super()._load_from_state_dict(state_dict, prefix, *args)


def scattered(points: Tensor, codes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Which of ``points`` ``[N, D]`` become codes beside those of ``[K, D]``: int64 ``[count]`` on the CPU.

    Drawn one by one by the squared distance to the nearest code so far (k-means++). Drawn uniformly they would crowd
    where the points do: around the places where nothing moves, which most are, and which one code could tell.
    """
    points, codes = points.cpu(), codes.cpu()
    known = codes if len(codes) else points.mean(0, keepdim=True)
    apart = torch.cdist(points, known).square().amin(1)
    chosen = []
    for _ in range(count):
        row = torch.multinomial(apart if apart.any() else torch.ones_like(apart), 1, generator=generator)
        chosen.append(row)
        apart = torch.minimum(apart, (points - points[row]).square().sum(1))
    return torch.cat(chosen)


def state_for_resume(module: nn.Module) -> dict[str, Tensor]:
    """What the weights of ``module`` leave out: usage and generator of each of its quantizers, by name."""
    return {
        f"{name}.{key}": value
        for name, quantizer in _quantizers(module).items()
        for key, value in (("usage", quantizer.usage.clone()), ("generator", quantizer.generator.get_state()))
    }


def load_state_for_resume(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Inverse of :func:`state_for_resume`, to be called after the weights are loaded."""
    quantizers = _quantizers(module)
    expected = {f"{name}.{key}" for name in quantizers for key in ("usage", "generator")}
    if expected != set(state):
        raise CheckpointError(
            f"the state of the quantizers must hold {sorted(expected)}, got {sorted(state)}: "
            "resume with the tokenizer the state was saved from"
        )
    for name, quantizer in quantizers.items():
        usage = state[f"{name}.usage"]
        if usage.shape != quantizer.usage.shape:
            raise CheckpointError(f"{name}.usage: expected {len(quantizer.usage)} codes, got {len(usage)}")
        quantizer.usage.copy_(usage)
        quantizer.generator.set_state(state[f"{name}.generator"].cpu())


def _quantizers(module: nn.Module) -> dict[str, VectorQuantizer]:
    return {name: part for name, part in module.named_modules() if isinstance(part, VectorQuantizer)}


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _total(values: Tensor) -> Tensor:
    """Sum over all training processes."""
    if _processes() > 1:
        dist.all_reduce(values)
    return values
