"""LPIPS (Zhang et al. 2018), version 0.1 with features of VGG16: a perceptual distance between images.

Its weights are under licences of their own, so they do not ship and are not downloaded. :meth:`LPIPS.from_file` reads a
safetensors file with

    features.{0,2,5,7,10,12,14,17,19,21,24,26,28}.{weight,bias}   torchvision's vgg16, ImageNet weights
    lin{0,1,2,3,4}.weight                                         LPIPS's 1x1 convolutions, [1, channels, 1, 1]

Other entries, such as the classifier of vgg16, are ignored. The packages torchvision and lpips make such a file:

    vgg = torchvision.models.vgg16(weights="IMAGENET1K_V1").state_dict()
    lins = lpips.LPIPS(net="vgg").state_dict()
    lins = {f"lin{i}.weight": lins[f"lin{i}.model.1.weight"] for i in range(5)}
    safetensors.torch.save_file({**vgg, **lins}, "lpips.safetensors")
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldgym.errors import CheckpointError
from worldgym.storage.tensors import Tensors, misfits, open_tensors

STAGES: tuple[tuple[int, ...], ...] = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of VGG16's convolutions, stage by stage; each stage but the first begins with a max-pooling."""
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
EPSILON = 1e-10


class LPIPS(nn.Module):
    """Perceptual distance between images, 0 for equal ones. The weights are fixed: they take no gradients."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict()
        channels, index = 3, 0
        for stage in STAGES:
            for width in stage:
                self.features[str(index)] = nn.Conv2d(channels, width, 3, padding=1, dtype=torch.float32)
                channels, index = width, index + 2
            index += 1
        for number, stage in enumerate(STAGES):
            self.add_module(f"lin{number}", nn.Conv2d(stage[-1], 1, 1, bias=False, dtype=torch.float32))
        self.register_buffer("mean", torch.tensor(MEAN, dtype=torch.float32)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION, dtype=torch.float32)[:, None, None], persistent=False)
        self.eval().requires_grad_(False)

    @classmethod
    def from_file(cls, path: Path) -> "LPIPS":
        """Read the weights.

        Args:
            path: a safetensors file as described at the head of this module.

        Returns:
            The metric, on the CPU.

        Raises:
            CheckpointError: if the file cannot be read, or a tensor is missing or of another shape; the message names
                every such tensor.
        """
        with torch.device("meta"):
            expected = cls().state_dict()
        found = _read(path, set(expected))
        if problems := misfits(expected, found):
            raise CheckpointError(
                f"{path}: expected the weights of LPIPS, got others: {'; '.join(problems)}; make the file as "
                "worldgym/metrics/lpips.py describes"
            )
        with torch.device("cpu"):
            model = cls()
        model.load_state_dict(found)
        return model

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Measure distances.

        Args:
            first: images ``[N, 3, H, W]`` in [0, 1].
            second: images of the same shape.

        Returns:
            Distances, float32 ``[N]``.
        """
        total = torch.zeros(len(first), device=first.device, dtype=torch.float32)
        a, b = ((image - self.mean) / self.deviation for image in (first, second))
        for number, stage in enumerate(self._stages()):
            a, b = self._run(stage, number, a), self._run(stage, number, b)
            weighted = self.get_submodule(f"lin{number}")((_unit(a) - _unit(b)).square())
            total = total + weighted.mean(dim=(1, 2, 3)).float()
        return total

    def _stages(self) -> list[list[nn.Module]]:
        layers = iter(self.features.values())
        return [[next(layers) for _ in stage] for stage in STAGES]

    def _run(self, layers: list[nn.Module], number: int, x: Tensor) -> Tensor:
        if number:
            x = F.max_pool2d(x, 2)
        for layer in layers:
            x = F.relu(layer(x))
        return x


def _unit(features: Tensor) -> Tensor:
    """Features scaled to length 1 at each pixel, in float32."""
    features = features.float()
    # The clamp keeps the gradient finite where all features of a pixel are 0.
    return features / (features.square().sum(dim=1, keepdim=True).clamp(min=EPSILON**2).sqrt() + EPSILON)


def _read(path: Path, names: set[str]) -> Tensors:
    """The tensors of a file that have one of these names."""
    with open_tensors(path, "the weights of LPIPS") as file:
        return {name: file.get_tensor(name) for name in file.keys() if name in names}  # noqa: SIM118
