"""A policy for recordings: it sees frames alone and balances the pole, but now and then pushes to one side for a while.

With it a twin sees more of CartPole than how it falls:
    cd examples; worldgym twin --env CartPole-v1 --out ../twins/cartpole --policy cartpole_by_eye:Balance
"""

import numpy as np
from numpy.typing import NDArray

SPEED_WEIGHT = 3.0
MISTAKES, MISTAKE_STEPS = 24, 7  # one frame of so many begins a mistake of so many steps


class Balance:
    """Pushes the cart to the side to which the pole leans and falls; one object an episode."""

    def __init__(self) -> None:
        self._lean: float | None = None
        self._mistake, self._steps = 0, 0

    def __call__(self, frame: NDArray[np.uint8]) -> int:
        """An action of CartPole, 0 (left) or 1 (right), for a frame uint8 ``[H, W, 3]``."""
        (lean, _), number = measure(frame), int(frame.sum())
        speed = 0.0 if self._lean is None else lean - self._lean
        self._lean = lean
        if not self._steps and number % MISTAKES == 0:  # a number that is as good as random and the same at every run
            self._mistake, self._steps = number // MISTAKES % 2, MISTAKE_STEPS
        if self._steps:
            self._steps -= 1
            return self._mistake
        return int(lean + SPEED_WEIGHT * speed > 0)


def measure(frame: NDArray[np.uint8]) -> tuple[float, float]:
    """Pixels by which the tip of the pole is to the right of the cart, and the cart of the middle; 0 if unseen."""
    image, columns = frame.astype(float), np.arange(frame.shape[1])
    brown = np.clip(image[..., 0] - image[..., 2] - 10, 0, None)
    dark = np.clip(150 - image.sum(-1), 0, None)
    dark[: 3 * len(frame) // 5] = 0  # above the track
    rows = np.nonzero(brown.sum(1) > 60)[0]
    if not len(rows) or not dark.any():
        return 0.0, 0.0
    tip = brown[rows.min() : rows.min() + 3].sum(0)
    cart = dark.sum(0) @ columns / dark.sum()
    return float(tip @ columns / tip.sum() - cart), float(cart - columns.mean())
