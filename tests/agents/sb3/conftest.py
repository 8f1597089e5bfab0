"""SB3's logger writes to a temporary folder of its own unless it is told another one."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def log_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where SB3's loggers of a test write to."""
    folder = tmp_path / "sb3-logs"
    monkeypatch.setenv("SB3_LOGDIR", str(folder))
    return folder
