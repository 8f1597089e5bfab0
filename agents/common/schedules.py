"""Figures that follow a schedule: exploration noise, the share of real data in a batch."""

from dataclasses import dataclass

from worldgym.errors import ConfigError


@dataclass(frozen=True)
class Linear:
    """From ``start`` at step 0 to ``end`` at ``steps``, and ``end`` from there on."""

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"a linear schedule takes at least 1 step to its end, got {self.steps}")

    def __call__(self, step: int) -> float:
        share = min(max(step / self.steps, 0.0), 1.0)
        return (1 - share) * self.start + share * self.end
