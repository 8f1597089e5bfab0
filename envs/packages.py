"""Whether optional packages are installed, without importing them."""

import importlib.util
import sys


def missing_packages(*names: str) -> list[str]:
    """The importable names among these that are not installed."""
    return [name for name in names if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # it is in sys.modules without a spec
        return sys.modules[name] is not None
