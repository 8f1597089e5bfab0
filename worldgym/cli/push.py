"""``worldgym push``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from worldgym.cli.options import OptionalText, parse_options

EXAMPLE = "worldgym push twins/cartpole my-name/cartpole-twin --dry-run"
ENV_PY = '''"""The learned environment for LeRobot: needs `pip install worldgym`."""

from pathlib import Path

from worldgym.envs.learned import lerobot


def make_env(n_envs=1, use_async_envs=False, cfg=None):
    """Vector environment of the checkpoint beside this file."""
    task = getattr(cfg, "task", None)
    return lerobot.make_env(Path(__file__).parent, n_envs, use_async_envs, task)
'''


@dataclass(frozen=True)
class Push:
    """Upload a checkpoint to the Hugging Face Hub: weights, start states, first frames, recipe and card.

    gym.make("WorldModel-v0", checkpoint="user/repo") then loads it anywhere, and LeRobot finds it by its env.py. Log in
    first with `hf auth login`.
    """

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """A shipped name or a folder."""
    repo: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="REPO")]
    """Where to upload it: user/name."""
    private: bool = False
    """Whether only you can see the repository, if it is made now."""
    dry_run: bool = False
    """List the files without uploading them."""
    message: OptionalText = None
    """Of the commit (default: "Upload CHECKPOINT")."""

    def run(self) -> None:
        import shutil
        import tempfile

        from worldgym.errors import ConfigError
        from worldgym.pretrained import locate
        from worldgym.reports.card import CARD
        from worldgym.world_model import WorldModel

        if self.repo.count("/") != 1 or not all(self.repo.split("/")):
            raise ConfigError(f"repo: expected user/name, got {self.repo!r}")
        folder = locate(self.checkpoint)
        WorldModel.from_pretrained(folder)  # nothing is uploaded that cannot be loaded
        if not (folder / CARD).is_file():
            raise ConfigError(f"{folder} has no model card: `worldgym evaluate --write-card` writes one")
        with tempfile.TemporaryDirectory() as temporary:
            stage = Path(temporary)
            for path in _files(folder):
                (stage / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / path, stage / path)
            card = (folder / CARD).read_text(encoding="utf-8")
            named = card.replace(f'checkpoint="{folder.resolve().name}"', f'checkpoint="{self.repo}"')
            (stage / CARD).write_text(named, encoding="utf-8")
            (stage / "env.py").write_text(ENV_PY, encoding="utf-8")
            for path in sorted(path for path in stage.rglob("*") if path.is_file()):
                print(f"{path.stat().st_size / 1e6:8.2f} MB  {path.relative_to(stage)}")
            if self.dry_run:
                print(f"dry run: nothing was uploaded to {self.repo}")
            else:
                print(self._upload(stage))

    def _upload(self, folder: Path) -> str:
        """Upload a folder; its address."""
        from huggingface_hub import HfApi

        from worldgym.errors import StorageError

        api = HfApi()
        try:
            api.create_repo(self.repo, private=self.private, exist_ok=True)
            message = self.message or f"Upload {self.checkpoint}"
            return str(api.upload_folder(repo_id=self.repo, folder_path=folder, commit_message=message))
        except Exception as error:  # the client raises its own errors, those of its transport, and OSError
            raise StorageError(
                f"could not upload to {self.repo}: {type(error).__name__}: {error}. Check the connection, the name and "
                "`hf auth whoami`; nothing on this machine was changed"
            ) from error


def _files(folder: Path) -> list[Path]:
    """The files of a checkpoint, relative to its folder; other files in it, such as recordings, are left out."""
    from worldgym.pretrained import OURS
    from worldgym.training.recipe import RECIPE

    patterns = (*OURS, RECIPE)
    return sorted({path.relative_to(folder) for pattern in patterns for path in folder.glob(pattern)})


def parse(arguments: Sequence[str]) -> Push:
    """Parse the command's options."""
    return parse_options(Push, arguments, "push", EXAMPLE)
