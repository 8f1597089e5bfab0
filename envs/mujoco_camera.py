"""Offscreen frames of MuJoCo simulators, right with several environments, threads and forked processes.

Gymnasium's renderer shares one OpenGL context among all environments of a process and then shows another one's scene;
MuJoCo's own renderer, used here, does not.
"""

import atexit
import contextlib
import ctypes.util
import functools
import importlib
import os
import sys
import threading
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
        camera: name of the camera, or MuJoCo's ``MjvCamera``.
        resolution: height and width of a frame.
        shadows: whether to draw shadows and reflections, which take most of the time without a GPU.
        hidden_groups: groups of shapes that are not drawn, such as those that only collide.
    """

    def __init__(
        self, model: Any, camera: Any, resolution: int, shadows: bool, hidden_groups: tuple[int, ...] = ()
    ) -> None:
        self._model, self._camera, self._resolution, self._shadows = model, camera, resolution, shadows
        self._hidden_groups = hidden_groups
        self._renderer: Any = None
        self._process = 0
        self._free: weakref.finalize[Any, Any] | None = None

    def frame(self, data: Any) -> NDArray[np.uint8]:
        """The scene of ``data``, MuJoCo's ``MjData``: uint8 ``[resolution, resolution, 3]``.

        Raises:
            RenderingError: if OpenGL fails, or draws an empty picture.
        """
        _free_dropped()
        renderer = self._current_renderer()
        try:
            frame = self._draw(renderer, data)
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
        _free_dropped()

    def _draw(self, renderer: Any, data: Any) -> NDArray[np.uint8]:
        import mujoco

        shown = mujoco.MjvOption()
        shown.geomgroup[list(self._hidden_groups)] = 0
        renderer.update_scene(data, camera=self._camera, scene_option=shown)
        if not self._shadows:
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        frame: NDArray[np.uint8] = renderer.render()
        return frame

    def _current_renderer(self) -> Any:
        process = os.getpid()
        if self._renderer is None or self._process != process:
            if self._free is not None:
                self._free()  # the context belongs to the parent process
            with _MAKING:
                self._renderer, self._process = self._make_renderer(), process
            self._free = weakref.finalize(self, _DROPPED.append, (self._renderer, process))
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
_MAKING = threading.Lock()
_DROPPED: list[tuple[Any, int]] = []
"""Renderers that no camera needs any more, each with its process.

Python may drop an environment at any time, also while another one draws. Freeing its renderer at that moment would take
the other one's OpenGL context away, so it waits here.
"""
_INHERITED: list[Any] = []
"""Renderers of a parent process, kept so that Python does not free them in this one."""


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
    from mujoco import gl_context

    backend = importlib.import_module(gl_context.GLContext.__module__)
    if backend.__name__ == "mujoco.egl":
        none = backend.EGL.EGL_NO_SURFACE
        if backend.EGL_DISPLAY is not None:
            backend.EGL.eglMakeCurrent(backend.EGL_DISPLAY, none, none, backend.EGL.EGL_NO_CONTEXT)
    elif backend.__name__ == "mujoco.osmesa":
        backend.osmesa.OSMesaMakeCurrent(None, None, backend.GL.GL_FLOAT, 0, 0)
    elif backend.__name__ == "mujoco.glfw":
        backend.glfw.make_context_current(None)


def _free_dropped() -> None:
    """Free the renderers in :data:`_DROPPED`. No OpenGL context may be in use in this thread."""
    while _DROPPED:
        try:
            renderer, process = _DROPPED.pop()
        except IndexError:  # another thread was faster
            return
        if process != os.getpid():
            _INHERITED.append(renderer)
            continue
        with contextlib.suppress(Exception):  # freeing needs the context; one that cannot be made current is gone
            renderer._gl_context.make_current()
        renderer.close()


@functools.cache
def _close_cameras_at_exit(process: int) -> None:
    """Free renderers before MuJoCo shuts OpenGL down: functions registered last run first. Once a process."""
    atexit.register(_close_cameras)


def _close_cameras() -> None:
    for camera in list(_CAMERAS):
        camera.close()
    _free_dropped()
