"""Vector quantisation whose codebook is learned by online k-means, not by gradients.

Each training batch moves every code towards the mean of the latents that chose it (moving averages). Codes that are
hardly used are replaced by latents of the batch that are far from all codes. In a new codebook all codes are unused, so
the first batches initialise it. Encoding is a nearest-neighbour search, as in the published model.

In training mode the forward pass changes nothing: :meth:`VectorQuantizer.update` applies what it computed, so that
trainers can check the loss first.

A state dict holds the codebook alone. Exact resume also needs :func:`state_for_resume`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldgym import parallel
from worldgym.errors import CheckpointError


class Quantized(NamedTuple):
    """Result of quantising latents."""

    latents: Tensor
    """``[..., D]``, the chosen codes' vectors; gradients pass straight through to the input."""
    codes: Tensor
    """int64 ``[...]``."""
    commit_loss: Tensor
    """float32 scalar."""


class _Pending(NamedTuple):
    """What a forward pass in training mode computed and :meth:`VectorQuantizer.update` applies."""

    latents: Tensor
    """float32 ``[N, D]``."""
    codes: Tensor
    """int64 ``[N]``."""
    codebook: Tensor
    """``[K, D]``, unused codes replaced."""
    usage: Tensor
    """float32 ``[K]``, that of replaced codes set."""
    generator_state: Tensor


class VectorQuantizer(nn.Module):
    """A codebook ``[K, D]``.

    Args:
        codes: number of codes, K.
        dim: dimension of latents and codes, D.
        beta: weight of the commitment loss.
        decay: of the moving averages, per batch.
        dead_below: a code used less than this share of the average one is replaced; 0 replaces new codes only.
        generator: CPU generator that draws the latents which replace codes; one of its own by default.
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
        # Moving average of how many latents of a batch chose each code; 0 marks a new code.
        self.register_buffer("usage", torch.zeros(codes, dtype=torch.float32), persistent=False)
        self._pending: _Pending | None = None

    def forward(self, latents: Tensor) -> Quantized:
        """Quantise ``[..., D]``. In training mode :meth:`update` then moves the codebook by these latents."""
        codebook = self.embedding.weight
        if self.training:
            codebook, usage, generator_state = self._replace_unused(latents)
        codes = self._nearest(latents, codebook)
        chosen = F.embedding(codes, codebook)
        distance = F.mse_loss(latents.float(), chosen.float())
        # The second term would train the codebook; its value is kept so that losses compare with published ones.
        commit_loss = self.beta * distance + distance.detach()
        if self.training:
            self._pending = _Pending(_flat(latents), codes.flatten(), codebook, usage, generator_state)
        return Quantized(latents + (chosen.to(latents.dtype) - latents).detach(), codes, commit_loss)

    def codes(self, latents: Tensor) -> Tensor:
        """The nearest code of each latent: ``[..., D]`` to int64 ``[...]``, computed in float32."""
        return self._nearest(latents, self.embedding.weight)

    def lookup(self, codes: Tensor) -> Tensor:
        """The vectors ``[..., D]`` of codes ``[...]``."""
        return F.embedding(codes, self.embedding.weight)

    @torch.no_grad()
    def update(self) -> None:
        """Apply the last forward pass in training mode to the codebook; without one, do nothing.

        Unused codes are replaced, then each code moves towards the mean of the latents that chose it.
        """
        if self._pending is None:
            return
        flat, codes, codebook, usage, generator_state = self._pending
        self._pending = None
        counts = torch.bincount(codes, minlength=len(codebook)).float()
        sums = torch.zeros_like(codebook, dtype=torch.float32).index_add_(0, codes, flat)
        parallel.sum_([counts, sums])
        usage = usage.lerp(counts, 1 - self.decay)
        step = (1 - self.decay) * (sums - counts[:, None] * codebook)
        self.embedding.weight.copy_(codebook + step / usage[:, None].clamp(min=1e-12))
        self.usage.copy_(usage)
        self.generator.set_state(generator_state)

    @torch.no_grad()
    def _replace_unused(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codebook, usage and generator state after unused codes were replaced by latents far from all codes."""
        codebook, usage = self.embedding.weight.detach().clone(), self.usage.clone()
        dead = usage <= self.dead_below * usage.mean()
        if not dead.any():
            return codebook, usage, self.generator.get_state()
        flat = parallel.gather(_flat(latents))
        if not flat.isfinite().all():  # nor is the loss
            return codebook, usage, self.generator.get_state()
        rows = dead.nonzero()[: len(flat), 0]
        generator = torch.Generator(device="cpu")
        generator.set_state(self.generator.get_state())
        chosen = flat[sample_distant(flat, codebook[~dead].float(), len(rows), generator).to(flat.device)]
        codebook[rows] = chosen.to(codebook.dtype)
        usage[rows] = len(flat) / len(usage)
        return codebook, usage, generator.get_state()

    @torch.no_grad()
    def _nearest(self, latents: Tensor, codebook: Tensor) -> Tensor:
        with torch.autocast(latents.device.type, enabled=False):
            flat, codebook = _flat(latents), codebook.float()
            distance = torch.addmm(codebook.square().sum(1), flat, codebook.T, alpha=-2)
        return distance.argmin(1).view(latents.shape[:-1])

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        weight = state_dict.get(prefix + "embedding.weight")
        if weight is not None:  # a loaded codebook counts as used until batches show otherwise
            device = weight.device if self.usage.is_meta else self.usage.device
            self.usage = torch.ones(self.usage.shape, device=device, dtype=torch.float32)
            self._pending = None
        super()._load_from_state_dict(state_dict, prefix, *args)


def sample_distant(points: Tensor, codes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Choose points that are far from all codes (k-means++).

    They are drawn one by one with probabilities proportional to the squared distance to the nearest code so far. Drawn
    uniformly they would gather where most points are: at image regions where nothing moves, for which one code is
    enough.

    Args:
        points: ``[N, D]``.
        codes: ``[K, D]``; may be empty.
        count: how many to choose.
        generator: CPU generator.

    Returns:
        Rows of ``points``, int64 ``[count]``, on the CPU.
    """
    points, codes = points.cpu(), codes.cpu()
    known = codes if len(codes) else points.mean(0, keepdim=True)
    distance = torch.cdist(points, known).square().amin(1)
    chosen = []
    for _ in range(count):
        weights = distance if distance.any() else torch.ones_like(distance)
        row = torch.multinomial(weights, 1, generator=generator)
        chosen.append(row)
        distance = torch.minimum(distance, (points - points[row]).square().sum(1))
    return torch.cat(chosen)


def state_for_resume(module: nn.Module) -> dict[str, Tensor]:
    """What the state dict of ``module`` leaves out: usage and generator of each of its quantizers, by name."""
    return {
        f"{name}.{key}": value
        for name, quantizer in _quantizers(module).items()
        for key, value in (("usage", quantizer.usage.clone()), ("generator", quantizer.generator.get_state()))
    }


def load_state_for_resume(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Inverse of :func:`state_for_resume`, to be called after the weights are loaded.

    Raises:
        CheckpointError: if ``state`` is of other quantizers.
    """
    quantizers = _quantizers(module)
    expected = {f"{name}.{key}" for name in quantizers for key in ("usage", "generator")}
    if expected != set(state):
        raise CheckpointError(
            f"state of the quantizers: expected {sorted(expected)}, got {sorted(state)}: "
            "resume with the tokenizer that the state was saved from"
        )
    for name, quantizer in quantizers.items():
        usage = state[f"{name}.usage"]
        if usage.shape != quantizer.usage.shape:
            raise CheckpointError(f"{name}.usage: expected {len(quantizer.usage)} codes, got {len(usage)}")
        quantizer.usage.copy_(usage)
        quantizer.generator.set_state(state[f"{name}.generator"].cpu())


def _quantizers(module: nn.Module) -> dict[str, VectorQuantizer]:
    return {name: part for name, part in module.named_modules() if isinstance(part, VectorQuantizer)}


def _flat(latents: Tensor) -> Tensor:
    """Float32 ``[N, D]`` without gradients."""
    return latents.detach().flatten(0, -2).float()
