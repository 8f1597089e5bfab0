"""How fast a training loop is: samples a second, waiting for data, and the share of the hardware's peak."""

import torch

from worldgym.precision import wants_bfloat16
from worldgym.runs.log import Metrics

RATE = "speed/samples_per_second"
PEAKS = (
    ("H100 PCIe", 756, 51.2),
    ("H100 NVL", 835, 60.3),
    ("H100", 989, 66.9),
    ("H200", 989, 66.9),
    ("A100", 312, 19.5),
    ("L40S", 362, 91.6),
    ("RTX 4090", 165, 82.6),
    ("RTX 3090", 71, 35.6),
)
"""Parts of the names of GPUs, with 10^12 floating-point operations a second in bfloat16 (dense) and in float32, from
their data sheets. The first part that fits counts."""


def peak_flops(precision: str, device: torch.device) -> float | None:
    """Floating-point operations a second of a device at best.

    Args:
        precision: one of :data:`worldgym.precision.PRECISIONS`.
        device: of the computation.

    Returns:
        The number; None for hardware whose peak is not known.
    """
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    bfloat16 = wants_bfloat16(precision, device)
    return next((1e12 * (fast if bfloat16 else slow) for part, fast, slow in PEAKS if part in name), None)


class Speed:
    """Averages over the updates since it was last asked.

    Args:
        batch_size: samples of an update, over all processes.
        flops: floating-point operations of an update in this process; None leaves the share of the peak out.
        peak: such operations a second at best; likewise.
    """

    def __init__(self, batch_size: int, flops: float | None = None, peak: float | None = None) -> None:
        self._batch_size, self._share = batch_size, flops / peak if flops and peak else None
        self._updates, self._seconds, self._waited = 0, 0.0, 0.0

    def add(self, seconds: float, waited: float) -> None:
        """Count an update.

        Args:
            seconds: that it took.
            waited: the part of them in which it waited for data.
        """
        self._updates, self._seconds, self._waited = self._updates + 1, self._seconds + seconds, self._waited + waited

    @property
    def samples_per_second(self) -> float:
        """0 before an update was counted."""
        return self._batch_size * self._updates / self._seconds if self._seconds else 0.0

    def metrics(self) -> Metrics:
        """The averages; the counts begin anew."""
        found = {
            RATE: self.samples_per_second,
            "speed/waiting_for_data": self._waited / self._seconds if self._seconds else 0.0,
        }
        if self._share is not None and self._seconds:
            found["speed/share_of_peak"] = self._share * self._updates / self._seconds
        self._updates, self._seconds, self._waited = 0, 0.0, 0.0
        return found
