"""Any Gymnasium environment as a simulator: one RGB frame of fixed size is the observation."""

import importlib.util
import os
import sys
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from worldgym.data.pictures import resized, to_picture
from worldgym.envs.actions import ActionCodec
from worldgym.envs.contract import Frame, FrameEnv, Info, Options, metadata
from worldgym.envs.mujoco_camera import choose_gl_backend
from worldgym.envs.registry import SimulatorSpec
from worldgym.errors import DataError, DependencyNotInstalled, InvalidOption, UnknownTask, nearest

RENDER_FPS = 30
IMAGE_KEYS = ("image", "pixels", "rgb", "screen")
"""Keys of dictionary observations that are taken for the image first."""
ARROWS = {
    **{273: "ArrowUp", 274: "ArrowDown", 275: "ArrowRight", 276: "ArrowLeft"},  # in pygame 1, which some still use
    **{1073741903: "ArrowRight", 1073741904: "ArrowLeft", 1073741905: "ArrowDown", 1073741906: "ArrowUp"},
}
"""Names of keys in a browser by their numbers in pygame."""


class GymnasiumEnv(FrameEnv):
    """An environment by its Gymnasium id. Frames are, in this order:

    the observation, if it is an image (uint8, height x width x 1 or 3); the image inside a dictionary of observations;
    what the environment draws with ``render_mode="rgb_array"``.

    They are resized to squares by the mean over areas. The action space is the environment's own.

    Args:
        env: Gymnasium id, such as ``CarRacing-v3``; ``module:Id`` imports a module first.
        resolution: height and width of frames in pixels.
        frame_skip: steps of the environment in one step, whose rewards are summed.
        task: another name of ``env``.
        render_mode: ``rgb_array``, ``human`` or None.
        **kwargs: go to the environment.

    Raises:
        UnknownTask: for an id that is not registered; names the nearest.
        DependencyNotInstalled: if a package is missing.
        InvalidOption: if the environment shows no image, or its action space is not supported.
    """

    metadata = metadata(RENDER_FPS)

    def __init__(
        self,
        env: str | None = None,
        resolution: int = 64,
        frame_skip: int = 1,
        *,
        task: str | None = None,
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        name = env or task
        if name is None:
            raise InvalidOption("env: expected the id of a Gymnasium environment, such as 'CarRacing-v3', got none")
        if resolution < 1 or frame_skip < 1:
            raise InvalidOption(f"expected resolution and frame_skip of at least 1, got {resolution} and {frame_skip}")
        self.task, self.frame_skip = name, frame_skip
        _choose_video_driver()
        self.simulator, self._key, drawn = _make(name, kwargs)
        try:
            self._drawn = drawn
            self.codec = ActionCodec(self.simulator.action_space)
            super().__init__(resolution, self.simulator.action_space, f"worldgym {name}", render_mode)
        except BaseException:
            self.simulator.close()
            raise
        self._resolution = resolution
        self.original_size: tuple[int, int] | None = None

    @property
    def episode_steps(self) -> int | None:
        """Steps after which the environment truncates an episode; None if it has no limit or hides it."""
        limit = None if self.simulator.spec is None else self.simulator.spec.max_episode_steps
        return None if limit is None else -(-limit // self.frame_skip)

    def reset(self, *, seed: int | None = None, options: Options | None = None) -> tuple[Frame, Info]:
        """Start an episode; equal seeds give equal episodes if the environment's do.

        Returns:
            The frame, uint8 ``[resolution, resolution, 3]``, and the environment's ``info`` with ``success`` and
            ``task``.
        """
        self._check_open("reset")
        super().reset(seed=seed)
        observation, info = self.simulator.reset(seed=seed, options=None if options is None else dict(options))
        return self._show(self._image(observation)), self._info(info)

    def step(self, action: Any) -> tuple[Frame, float, bool, bool, Info]:
        """Take an action of the environment's own action space, ``frame_skip`` times or until the episode ends.

        Raises:
            ResetNeeded: before the first reset.
            InvalidAction: for an action outside the space.
        """
        self._current_frame("step")
        self.codec.encode(action)  # for its errors
        total, terminated, truncated = 0.0, False, False
        for _ in range(self.frame_skip):
            observation, reward, terminated, truncated, info = self.simulator.step(self._own(action))
            total += float(reward)
            if terminated or truncated:
                break
        return self._show(self._image(observation)), total, bool(terminated), bool(truncated), self._info(info)

    def keys(self) -> dict[tuple[str, ...], int]:
        """The environment's own keys: actions of keys that are held together, by their names in a browser.

        They come from its ``get_keys_to_action``, which ``gymnasium.utils.play`` uses; empty where there is none.
        """
        discrete = isinstance(self.action_space, gym.spaces.Discrete)
        if not discrete or not self.simulator.has_wrapper_attr("get_keys_to_action"):
            return {}
        found: dict[Any, Any] = self.simulator.get_wrapper_attr("get_keys_to_action")()
        return {tuple(map(_key, keys if isinstance(keys, tuple) else (keys,))): int(found[keys]) for keys in found}

    def close(self) -> None:
        """Close the environment."""
        super().close()
        self.simulator.close()

    def _own(self, action: Any) -> Any:
        """The action in the space's own type: some environments index with it."""
        space = self.simulator.action_space
        if isinstance(space, gym.spaces.Discrete):
            return int(np.asarray(action))
        values = np.asarray(action, space.dtype)
        return np.clip(values, space.low, space.high) if isinstance(space, gym.spaces.Box) else values

    def _image(self, observation: Any) -> Frame:
        if self._drawn:
            picture = self.simulator.render()
        else:
            picture = observation if self._key is None else observation[self._key]
        try:
            image = to_picture(np.asarray(picture))
        except DataError as error:
            raise InvalidOption(f"{self.task}: {error}") from error
        self.original_size = (image.shape[0], image.shape[1])
        return resized(image, self._resolution)

    def _info(self, info: Mapping[str, Any]) -> Info:
        success = info.get("success", info.get("is_success", False))
        return {**info, "success": bool(np.any(success)), "task": self.task}


def _choose_video_driver() -> None:
    """Let pygame draw without a display where there is none; else it complains of every other way first."""
    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform == "linux" and not any(os.environ.get(name) for name in displays):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def _make(name: str, kwargs: Mapping[str, Any]) -> tuple[Any, str | None, bool]:
    """The environment; the key of the image in its observations, if any; whether its frames have to be drawn."""
    plain = _make_plain(name, dict(kwargs))
    space = plain.observation_space
    if _is_image(space):
        return plain, None, False
    if isinstance(space, gym.spaces.Dict):
        keys = sorted((key for key, part in space.items() if _is_image(part)), key=_preference)
        if keys:
            return plain, keys[0], False
    modes = plain.metadata.get("render_modes", ())
    plain.close()
    if "rgb_array" not in modes:
        raise InvalidOption(
            f"{name} shows no picture: expected observations that are images (uint8, height x width x 3), or the "
            f"render mode 'rgb_array', got observations {space} and render modes {list(modes)}"
        )
    return _make_plain(name, {**kwargs, "render_mode": "rgb_array"}), None, True


def _make_plain(name: str, kwargs: dict[str, Any]) -> Any:
    if importlib.util.find_spec("mujoco") is not None:
        choose_gl_backend()
    try:
        return gym.make(name, **kwargs)
    except (gym.error.NameNotFound, gym.error.NamespaceNotFound, gym.error.VersionNotFound) as error:
        raise UnknownTask(f"no Gymnasium environment {name!r}; {nearest(name, gym.registry)}") from error
    except gym.error.UnregisteredEnv as error:
        raise UnknownTask(f"no Gymnasium environment {name!r}: {error}") from error
    except gym.error.DependencyNotInstalled as error:
        raise DependencyNotInstalled(f"{name} needs a package that is missing: {error}") from error
    except ModuleNotFoundError as error:
        package = error.name or name.partition(":")[0]
        raise DependencyNotInstalled(
            f"{name} needs the package {package!r}, which is not installed: `pip install {package}`"
        ) from error


def _key(key: int | str) -> str:
    return key if isinstance(key, str) else ARROWS.get(key) or chr(key)


def _ids() -> list[str]:
    """All registered ids but those of worldgym."""
    return sorted(name for name in gym.registry if not name.startswith(("Simulator-", "WorldModel-")))


def _is_image(space: gym.spaces.Space[Any]) -> bool:
    return (
        isinstance(space, gym.spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) == 3
        and space.shape[2] in (1, 3)
        and min(space.shape[:2]) >= 8
    )


def _preference(key: str) -> tuple[int, str]:
    return (IMAGE_KEYS.index(key) if key in IMAGE_KEYS else len(IMAGE_KEYS), key)


SPEC = SimulatorSpec(
    name="",
    entry_point="worldgym.envs.simulators.gymnasium:GymnasiumEnv",
    tasks=(),
    action_names=(),
    frame_skip=1,
    episode_steps=None,
    render_fps=RENDER_FPS,
    all_tasks=_ids,
)
