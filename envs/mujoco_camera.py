"""Offscreen frames of MuJoCo simulators, right with several environments, threads and forked processes.

Gymnasium's renderer shares one OpenGL context among all environments of a process and then shows another one's scene;
MuJoCo's own renderer, used here, does not.
"""

import atexit
import contextlib
import ctypes.util
import functools
import os
import sys
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldgym.errors import DependencyNotInstalled, RenderingError

GL_ADVICE = (
    "On Debian or Ubuntu: `apt-get install libegl1 libgl1` and MUJOCO_GL=egl (a GPU is not needed), "
    "or `apt-get install libosmesa6` and MUJOCO_GL=osmesa."
)


class MujocoCamera:
    """Draws one camera of a model.

    The renderer is made at the first frame, not in the constructor, and again in a forked process, which cannot use its
    parent's OpenGL context. After each frame the context is released, so that any thread can draw the next one.

    Args:
        model: MuJoCo's ``MjModel``.
        camera: name of the camera.
        resolution: height and width of a frame.
        shadows: whether to draw shadows and reflections, which take most of the time without a GPU.
    """

    def __init__(self, model: Any, camera: str, resolution: int, shadows: bool) -> None:
        self._model, self._camera, self._resolution, self._shadows = model, camera, resolution, shadows
        self._renderer: Any = None
        self._process = 0
        self._free: weakref.finalize[Any, Any] | None = None

    def frame(self, data: Any) -> NDArray[np.uint8]:
        """The scene of ``data``, MuJoCo's ``MjData``: uint8 ``[resolution, resolution, 3]``.

        Raises:
            RenderingError: if OpenGL fails, or draws an empty picture.
        """
        renderer = self._current_renderer()
        renderer.update_scene(data, camera=self._camera)
        if not self._shadows:
            import mujoco

            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        try:
            frame: NDArray[np.uint8] = renderer.render()
        finally:
            _release_context()
        if frame.min() == frame.max():
            raise RenderingError(f"MuJoCo drew an empty picture: every pixel is {frame.min()}. {GL_ADVICE}")
        return frame

    def close(self) -> None:
        """Free the renderer."""
        if self._free is not None:
            self._free()
        self._renderer = self._free = None

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles hold: no renderer, so they make their own."""
        return {**self.__dict__, "_renderer": None, "_free": None}

    def _current_renderer(self) -> Any:
        process = os.getpid()
        if self._renderer is None or self._process != process:
            if self._free is not None:
                self._free.detach()  # the context belongs to the parent process
            self._renderer, self._process = self._make_renderer(), process
            self._free = weakref.finalize(self, _free_renderer, self._renderer, process)
            _close_cameras_at_exit(process)
            _CAMERAS.add(self)
        return self._renderer

    def _make_renderer(self) -> Any:
        import mujoco

        try:
            return mujoco.Renderer(self._model, self._resolution, self._resolution)
        except Exception as error:  # OpenGL libraries fail in many ways, from ImportError to mujoco.FatalError
            raise RenderingError(
                f"MuJoCo cannot draw offscreen with MUJOCO_GL={os.environ.get('MUJOCO_GL')!r}: {error}. {GL_ADVICE}"
            ) from error


_CAMERAS = weakref.WeakSet[MujocoCamera]()
_ORPHANS: list[Any] = []
"""Renderers of a parent process, kept so that this process does not free them."""


def choose_gl_backend() -> None:
    """Choose how MuJoCo draws without a display; must be called before MuJoCo is imported.

    Raises:
        DependencyNotInstalled: on Linux, without a display and without an OpenGL library.
    """
    # Threads of Mesa's software renderer do not survive a fork, and slow each other down in parallel processes.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if "MUJOCO_GL" in os.environ or not sys.platform.startswith("linux") or os.environ.get("DISPLAY"):
        return
    for backend, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        if ctypes.util.find_library(library):
            os.environ["MUJOCO_GL"] = backend
            return
    raise DependencyNotInstalled(f"no OpenGL library found to draw without a display. {GL_ADVICE}")


def _release_context() -> None:
    """Leave no OpenGL context current in this thread."""
    backend = os.environ.get("MUJOCO_GL", "").lower()
    if backend == "egl":
        from mujoco import egl

        none = egl.EGL.EGL_NO_SURFACE
        egl.EGL.eglMakeCurrent(egl.EGL_DISPLAY, none, none, egl.EGL.EGL_NO_CONTEXT)
    elif backend == "osmesa":
        from mujoco import osmesa

        osmesa.osmesa.OSMesaMakeCurrent(None, None, osmesa.GL.GL_FLOAT, 0, 0)


def _free_renderer(renderer: Any, process: int) -> None:
    if os.getpid() != process:
        _ORPHANS.append(renderer)
        return
    with contextlib.suppress(Exception):  # freeing needs the context; one that cannot be made current is gone already
        renderer._gl_context.make_current()
    renderer.close()


@functools.cache
def _close_cameras_at_exit(process: int) -> None:
    """Free renderers before MuJoCo shuts OpenGL down: functions registered last run first. Once a process."""
    atexit.register(_close_cameras)


def _close_cameras() -> None:
    for camera in list(_CAMERAS):
        camera.close()
