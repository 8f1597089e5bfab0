"""The adversarial loss of a tokenizer, with a patch discriminator (VQGAN, Esser et al. 2021; paper, section 3.1).

The discriminator tells patches of real frames from patches of reconstructions, by the hinge loss. The tokenizer's loss
gets the negated mean of what it says of reconstructions, times an adaptive weight: the norm of the reconstruction
loss's gradient by that of the adversarial loss's, both at the last layer of the decoder. So the two pull alike at every
scale of the losses.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from worldgym import parallel
from worldgym.errors import CheckpointError, ConfigError
from worldgym.runs.log import Metrics
from worldgym.storage.tensors import add_prefix, select_prefix
from worldgym.tokenizer.base import Tokenizer, TokenizerOutput
from worldgym.training.updater import Updater

CHANNELS = (64, 128, 256, 512)
"""Of the discriminator's convolutions, each of which halves the maps, as in the published training."""
SMALLEST_NORM = 1e-6  # added to the norm by which the adaptive weight divides
LARGEST_WEIGHT = 1e4  # of the adaptive weights


class Discriminator(nn.Module):
    """Says of patches of frames how real they look: convolutions with spectral and instance normalisation."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(zip((3, *CHANNELS), CHANNELS, strict=False)):
            # The normalisation takes a bias out again: its gradient is rounding alone, which Adam would scale up.
            layers.append(spectral_norm(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=not index)))
            layers += [nn.InstanceNorm2d(outputs)] if index else []
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers, nn.Conv2d(CHANNELS[-1], 1, 1))

    def forward(self, frames: Tensor) -> Tensor:
        """Frames ``[N, 3, H, W]`` to logits ``[N, 1, H / 16, W / 16]``: large where a patch looks real."""
        logits: Tensor = self.layers(frames)
        return logits


class Adversary:
    """A discriminator in training, and its loss for a tokenizer. It computes in float32: it is small beside that.

    Args:
        resolution: height and width of frames in pixels.
        weight: of the adversarial loss, beside the adaptive weight.
        start: updates of the tokenizer before the discriminator begins.
        learning_rate: the discriminator's largest one.
        schedule: from the number of the tokenizer's updates before, the factor of ``learning_rate``.
        clip_norm: gradients whose norm is larger are scaled down to it.

    Attributes:
        updates: number of updates of the tokenizer.

    Raises:
        ConfigError: if frames are too small for the discriminator.
    """

    def __init__(
        self,
        resolution: int,
        weight: float,
        start: int,
        learning_rate: float,
        schedule: Callable[[int], float],
        clip_norm: float,
    ) -> None:
        least = 2 ** (len(CHANNELS) + 1)  # maps of at least 2 x 2, over which the instance normalisation is taken
        if resolution < least:
            raise ConfigError(
                f"adversarial_weight: expected 0 for frames of less than {least} pixels, which the discriminator's "
                f"{len(CHANNELS)} halvings need, got {weight} with frames of {resolution} pixels"
            )
        self.updates = 0
        self._weight, self._start = weight, start
        self._model = Discriminator()
        self._updater = Updater(self._model, learning_rate, lambda updates: schedule(start + updates), clip_norm)
        self._frames: tuple[Tensor, Tensor] | None = None  # real ones and reconstructions of the last loss

    def to(self, device: torch.device) -> "Adversary":
        """Move to a device; returns itself."""
        self._model.to(device)
        parallel.copy_from_main(self._model.state_dict().values())
        return self

    def loss(
        self, model: Tokenizer, real: Tensor, out: TokenizerOutput, reconstruction: Tensor
    ) -> tuple[Tensor, Metrics] | None:
        """The weighted adversarial loss of reconstructions.

        Args:
            model: the tokenizer.
            real: frames ``[B, C + T, 3, H, W]`` in [0, 1].
            out: what the tokenizer made of them.
            reconstruction: the reconstruction loss of the future frames, a scalar.

        Returns:
            The loss, a scalar; and as metrics the loss before it is weighted, and the adaptive weight. None before the
            discriminator has begun.
        """
        if self.updates < self._start:
            return None
        self._model.eval().requires_grad_(False)
        with torch.autocast(real.device.type, enabled=False):
            made = torch.cat([out.context, out.future], dim=1).flatten(0, 1).float()
            adversarial = -self._model(made).mean()
            weight = _adaptive_weight(reconstruction, adversarial, model.last_layer.weight)
        self._frames = real.flatten(0, 1), made.detach()
        metrics = {"adversarial/generator": adversarial.item(), "adversarial/adaptive_weight": weight.item()}
        return self._weight * weight * adversarial, metrics

    def update(self) -> Metrics:
        """Update the discriminator after an update of the tokenizer, by the frames of the last loss.

        Returns:
            Its loss; nothing before it has begun.

        Raises:
            TrainingError: if the loss or its gradient is not finite.
        """
        self.updates += 1
        if self._frames is None:
            return {}
        frames, self._frames = self._frames, None
        self._model.train().requires_grad_(True)
        real, made = self._model(torch.cat(frames)).chunk(2)
        loss = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())
        self._updater.update(loss)
        return {"adversarial/discriminator": loss.item()}

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, state of the optimizer, and the number of updates."""
        counts = torch.tensor([self.updates, self._updater.updates], dtype=torch.int64)
        model, optimizer = self._model.state_dict(), self._updater.state_dict()
        return {"updates": counts, **add_prefix("model", model), **add_prefix("optimizer", optimizer)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of :meth:`state_dict`.

        Raises:
            CheckpointError: if the state is of no discriminator.
        """
        if "updates" not in state:
            raise CheckpointError("expected the state of a discriminator, got none")
        self.updates, own = state["updates"].tolist()
        self._model.load_state_dict(select_prefix("model", state))
        self._updater.load_state_dict(select_prefix("optimizer", state), own)


def _adaptive_weight(reconstruction: Tensor, adversarial: Tensor, layer: Tensor) -> Tensor:
    """The norm of one loss's gradient at a layer's weight by that of the other's, over the batch of all processes."""
    losses = reconstruction, adversarial
    gradients = [torch.autograd.grad(loss, layer, retain_graph=True)[0] for loss in losses]
    parallel.mean_(gradients)
    norm, other = (gradient.norm() for gradient in gradients)
    weight: Tensor = (norm / (other + SMALLEST_NORM)).clamp(max=LARGEST_WEIGHT)
    return weight.detach()
