"""Costs of futures by their distance to a goal image.

Distances of codes are taken between the codes' vectors in the codebook, so that codes that mean nearly the same are
near. Shapes: N candidates, F frames, H x W pixels, n codes of a frame, D dimension of a code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from worldgym.agents.planning.cost import SuccessCost
from worldgym.agents.planning.futures import ALL_FRAMES, Futures
from worldgym.errors import DataError, InvalidFrames
from worldgym.isolation import torch_defaults
from worldgym.world_model import WorldModel
from worldgym.world_model.images import encode_contexts

Goal = NDArray[np.uint8]
"""uint8 ``[H, W, 3]``."""
Distance = Callable[[Tensor, Tensor], Tensor]
"""Distances ``[N]`` of images float ``[N, 3, H, W]`` in [0, 1] and others of this shape."""


def read_goal(path: Path, resolution: int) -> Goal:
    """A goal image from a file.

    Raises:
        DataError: if it is no picture.
        InvalidFrames: for another size than ``resolution`` x ``resolution`` pixels.
    """
    try:
        with Image.open(path) as picture:
            goal = np.array(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"goal {path}: expected a picture, such as a PNG file: {error}") from error
    return checked_goal(goal, (resolution, resolution, 3))


def checked_goal(goal: Goal, shape: tuple[int, ...]) -> Goal:
    """The goal. Raises InvalidFrames unless it is uint8 of this shape."""
    if goal.dtype != np.uint8 or goal.shape != tuple(shape):
        raise InvalidFrames(
            f"goal: expected uint8 {list(shape)}, the size of the model's frames, got {goal.dtype} "
            f"{list(goal.shape)}: resize it"
        )
    return goal


@dataclass(frozen=True)
class GoalCost:
    """Distance of imagined frames to a goal image, averaged over them.

    Attributes:
        goal: uint8 ``[H, W, 3]``.
        every_frame: compare all frames, so that the goal is to be reached soon; False compares the last alone.
        distance: of images, such as :class:`worldgym.metrics.lpips.LPIPS`; mean squared difference unless given.
    """

    goal: Goal
    every_frame: bool = True
    distance: Distance | None = None

    @property
    def frames(self) -> int:
        return ALL_FRAMES if self.every_frame else 1

    def __call__(self, futures: Futures) -> Tensor:
        goal = torch.from_numpy(checked_goal(self.goal, futures.frames.shape[2:]).copy()).to(futures.frames.device)
        total = torch.zeros(len(futures), device=goal.device)
        for frame in futures.frames.unbind(1):  # one at a time: floats take four times the memory
            pair = [image.float().div(255).movedim(-1, -3) for image in (frame, goal.expand_as(frame))]
            total += (self.distance or _squared_difference)(*pair)
        return total / futures.frames.shape[1]


@dataclass(frozen=True)
class GoalSuccessCost:
    """Squared differences to a goal image, minus probabilities of success: as VP2 plans in RoboDesk.

    There (Tian et al. 2023), the logits of a classifier of frames take the place of the probabilities, which a
    simulator gives as well. All imagined frames count.

    Attributes:
        goal: uint8 ``[H, W, 3]``.
        pixel_weight: of the squared differences of pixels in [0, 1], summed over frames, pixels and colours.
        success_weight: of the probabilities, summed over frames.
    """

    goal: Goal
    pixel_weight: float = 0.5
    success_weight: float = 10.0
    frames: int = ALL_FRAMES

    def __call__(self, futures: Futures) -> Tensor:
        pixels = GoalCost(self.goal)(futures) * futures.frames[0].numel()
        return self.pixel_weight * pixels + self.success_weight * SuccessCost(discount=1.0)(futures)


@dataclass(frozen=True)
class DynamicsCodeCost:
    """Distance of the imagined dynamics codes to those of the goal as a future of the same context. Decodes no frame.

    Attributes:
        model: that imagines.
        goal: uint8 ``[H, W, 3]``.
        every_frame: as for :class:`GoalCost`.
    """

    model: WorldModel
    goal: Goal
    every_frame: bool = True
    frames: int = 0

    @torch_defaults(grad=False)
    def __call__(self, futures: Futures) -> Tensor:
        model, goal = self.model, checked_goal(self.goal, tuple(futures.history.shape[1:]))
        _, features = encode_contexts(model.tokenizer, futures.context[None].to(model.device), model.dtype)
        wanted = model.tokenizer.encode_future(_pixels(goal, model)[None, None], features)[0, 0]
        _, book = model.tokenizer.codebooks()
        tokens = futures.tokens if self.every_frame else futures.tokens[:, -1:]
        return (book[tokens].float() - book[wanted].float()).square().mean(dim=(1, 2, 3))


@dataclass(frozen=True)
class ContextCodeCost:
    """Distance of the last imagined frame's context codes to the goal's: a finer grid than dynamics codes.

    Attributes:
        model: whose tokenizer encodes.
        goal: uint8 ``[H, W, 3]``.
    """

    model: WorldModel
    goal: Goal
    frames: int = 1

    @torch_defaults(grad=False)
    def __call__(self, futures: Futures) -> Tensor:
        model, count = self.model, self.model.config.context_length
        goal = torch.from_numpy(checked_goal(self.goal, tuple(futures.history.shape[1:]))).to(model.device)
        contexts = torch.cat([goal[None], futures.frames[:, -1].to(model.device)])[:, None].repeat(1, count, 1, 1, 1)
        codes, _ = encode_contexts(model.tokenizer, contexts, model.dtype)
        book, _ = model.tokenizer.codebooks()
        vectors = book[codes[:, -1]].float()
        return (vectors[1:] - vectors[:1]).square().mean(dim=(1, 2))


def _pixels(frame: Goal, model: WorldModel) -> Tensor:
    """A frame as the tokenizer takes it, ``[3, H, W]``."""
    return torch.from_numpy(frame).to(model.device).to(model.dtype).div(255).movedim(-1, -3)


def _squared_difference(first: Tensor, second: Tensor) -> Tensor:
    return (first - second).square().mean(dim=(1, 2, 3))
