"""I3D (Carreira and Zisserman 2017), Inception-v1 inflated to videos: the features of FVD.

Its weights are under licences of their own, so they do not ship and are not downloaded. :meth:`I3D.from_file` reads
the PyTorch port of the weights trained on RGB frames of Kinetics-400 (``rgb_imagenet.pt`` of the repository
pytorch-i3d), as a state dict in a ``.pt`` file or as safetensors:

    Conv3d_1a_7x7.{conv3d.weight,bn.weight,bn.bias,bn.running_mean,bn.running_var}, and so on
    Mixed_{3b,3c,4b,4c,4d,4e,4f,5b,5c}.{b0,b1a,b1b,b2a,b2b,b3b}.*, logits.conv3d.{weight,bias}

TorchScript files are programs: they are refused.
"""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldgym.errors import CheckpointError
from worldgym.storage.tensors import Tensors, misfits, read_tensors

MIXED: dict[str, tuple[int, ...]] = {
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32),
    "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64),
    "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64),
    "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}
"""Channels of the mixed blocks: input, then b0, b1a, b1b, b2a, b2b, b3b."""
SIDE, CLASSES, LEAST_FRAMES = 224, 400, 9
AT_ONCE = 8  # videos

Size = tuple[int, int, int]


class Unit(nn.Module):
    """A convolution with TensorFlow's padding, normalised unless it is the last one."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int = 1, last: bool = False) -> None:
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(channels, width, kernel, stride, bias=last)
        self.bn = None if last else nn.BatchNorm3d(width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(_padded(x, self.kernel, self.stride))
        return x if self.bn is None else F.relu(self.bn(x))


class Mixed(nn.Module):
    """Four branches beside each other."""

    def __init__(self, channels: int, *widths: int) -> None:
        super().__init__()
        self.b0 = Unit(channels, widths[0], 1)
        self.b1a, self.b1b = Unit(channels, widths[1], 1), Unit(widths[1], widths[2], 3)
        self.b2a, self.b2b = Unit(channels, widths[3], 1), Unit(widths[3], widths[4], 3)
        self.b3b = Unit(channels, widths[5], 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = _pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], dim=1)


class I3D(nn.Module):
    """Logits of 400 actions. The weights are fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = Unit(64, 64, 1)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        for name, widths in MIXED.items():
            self.add_module(name, Mixed(*widths))
        self.logits = Unit(1024, CLASSES, 1, last=True)
        self.eval().requires_grad_(False)

    @classmethod
    def from_file(cls, path: Path) -> "I3D":
        """Read the weights.

        Args:
            path: a file as described at the head of this module.

        Raises:
            CheckpointError: if the file cannot be read, or a tensor is missing or of another shape; the message names
                every such tensor.
        """
        with torch.device("meta"):
            expected = cls().state_dict()
        found = _read(path)
        needed = {name: tensor for name, tensor in expected.items() if not name.endswith("num_batches_tracked")}
        if problems := misfits(needed, found):
            raise CheckpointError(
                f"{path}: expected the weights of I3D, got others: {'; '.join(problems[:8])}; "
                "worldgym/metrics/i3d.py says which file is meant"
            )
        with torch.device("cpu"):
            model = cls()
        model.load_state_dict({name: found[name] for name in needed}, strict=False)
        return model

    def features(self, videos: Tensor) -> Tensor:
        """Features for FVD.

        Args:
            videos: uint8 ``[N, T, H, W, 3]`` of at least 9 frames.

        Returns:
            float32 ``[N, 400]``.
        """
        device = self.logits.conv3d.weight.device
        return torch.cat([self(_prepared(some.to(device))) for some in videos.split(AT_ONCE)])

    def forward(self, videos: Tensor) -> Tensor:
        """Videos ``[N, 3, T, 224, 224]`` in [-1, 1] to logits ``[N, 400]``."""
        x = _pool(self.Conv3d_1a_7x7(videos), (1, 3, 3), (1, 2, 2))
        x = _pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        for name in MIXED:
            if name == "Mixed_4b":
                x = _pool(x, (3, 3, 3), (2, 2, 2))
            if name == "Mixed_5b":
                x = _pool(x, (2, 2, 2), (2, 2, 2))
            x = self.get_submodule(name)(x)
        logits: Tensor = self.logits(F.avg_pool3d(x, (2, 7, 7), stride=1))
        return logits.mean(dim=(2, 3, 4))


def _padded(x: Tensor, kernel: Size, stride: Size) -> Tensor:
    """Zeros around a map, more of them behind it than before it, so that its size is only divided by the stride."""
    sizes: list[int] = []
    for size, width, step in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max(0, (-(-size // step) - 1) * step + width - size)
        sizes += [total // 2, total - total // 2]
    return F.pad(x, sizes) if any(sizes) else x


def _pool(x: Tensor, kernel: Size, stride: Size) -> Tensor:
    return F.max_pool3d(_padded(x, kernel, stride), kernel, stride)  # zeros do not matter: nothing is below 0


def _prepared(videos: Tensor) -> Tensor:
    """Videos uint8 ``[N, T, H, W, 3]`` as the network takes them."""
    frames = videos.permute(0, 1, 4, 2, 3).float().flatten(0, 1)
    if frames.shape[-2:] != (SIDE, SIDE):
        frames = F.interpolate(frames, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    return torch.unflatten(frames / 127.5 - 1, 0, videos.shape[:2]).transpose(1, 2)


def _read(path: Path) -> Tensors:
    if path.suffix not in (".pt", ".pth"):
        return read_tensors(path, "the weights of I3D").tensors
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript files, which are refused below
            values: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path}: not readable as a state dict ({str(error).splitlines()[0]}); TorchScript and pickled models are "
            "programs, which are not run: give a state dict or safetensors"
        ) from error
    if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
        raise CheckpointError(f"{path}: expected a state dict of tensors, got {type(values).__name__}")
    return values
