"""All errors that worldgym raises on purpose. Messages give what was expected, what was got and what to do."""

import difflib
from collections.abc import Iterable

import gymnasium.error


class WorldGymError(Exception):
    """Base of all errors raised by worldgym."""


class ConfigError(WorldGymError, ValueError):
    """A configuration value is missing, unknown or contradicts another one."""


class CheckpointError(WorldGymError):
    """A checkpoint is missing, damaged, or does not fit the model that its configuration describes."""


class DataError(WorldGymError):
    """A recording is missing, damaged or does not fit what it is used for."""


class StorageError(WorldGymError, OSError):
    """Something could not be written: a full disk, no permission, or a file where a folder should be."""


class TrainingError(WorldGymError):
    """Training cannot continue: the loss is not finite, or the run folder belongs to another run."""


class InvalidFrames(WorldGymError, ValueError):
    """Frames of the wrong shape, dtype or range."""


class UnknownTask(WorldGymError, gymnasium.error.UnregisteredEnv):
    """A task name that no simulator and no checkpoint has."""


class InvalidAction(WorldGymError, gymnasium.error.InvalidAction):
    """An action of the wrong shape, or one that is not finite."""


class InvalidBuffer(WorldGymError, ValueError):
    """A tensor or cache that decoding cannot use: of another dtype, device, memory order or size, or without space."""


class ResetNeeded(WorldGymError, gymnasium.error.ResetNeeded):
    """step() or render() before reset(), or after the episode ended."""


class EnvironmentClosed(WorldGymError, gymnasium.error.ClosedEnvironmentError):
    """A call to an environment that was closed."""


class InvalidOption(WorldGymError, gymnasium.error.Error, ValueError):
    """An environment was given an option or argument it does not take."""


class DependencyNotInstalled(WorldGymError, gymnasium.error.DependencyNotInstalled):
    """An optional library or system package is missing; the message names what to install."""


class OutOfMemory(WorldGymError, MemoryError):
    """A batch needs more memory than is free. Raised before anything is allocated."""


class RenderingError(WorldGymError):
    """The simulator ran but rendered no usable picture."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest names for an error message.

    Args:
        name: the unknown name.
        known: names that exist.

    Returns:
        A phrase such as ``did you mean 'hammer', 'handle-pull'?``, or a list of the known names; never empty.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    if close:
        return "did you mean " + ", ".join(repr(match) for match in close) + "?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"known names: {shown or 'none'}"
