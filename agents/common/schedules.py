"""Schedules: values that depend on the environment step."""

from dataclasses import dataclass

from worldgym.errors import ConfigError


@dataclass(frozen=True)
class Linear:
    """A value that changes linearly, then stays."""

    start: float
    """Value at step 0."""
    end: float
    """Value from step ``steps`` on."""
    steps: int
    """Environment steps of the change."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps: expected at least 1, got {self.steps}")

    def __call__(self, step: int) -> float:
        share = min(max(step / self.steps, 0.0), 1.0)
        return (1 - share) * self.start + share * self.end
