"""``worldgym play``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from worldgym.checkpoints import DEFAULT
from worldgym.cli.options import Natural, OptionalPath, OptionalText, parse_options

EXAMPLE = "worldgym play --checkpoint metaworld-64 --task plate-slide"


@dataclass(frozen=True)
class Play:
    """Drive a learned environment in the browser, with its simulator beside it.

    Prints the address of the page, which this process serves. Ctrl+C ends it.
    """

    checkpoint: str = DEFAULT
    """A shipped name, a folder or a Hugging Face Hub id."""
    task: OptionalText = None
    """Of the first episode (default: the checkpoint's first)."""
    port: Natural = 8008
    """To listen at; 0 takes a free one."""
    host: str = "127.0.0.1"
    """Address to listen at. Any other lets other machines play that know the printed address."""
    policy: OptionalText = None
    """An agent that can take over: agent.safetensors, a stable-baselines3 .zip, module:function or module:Class."""
    out: Path = Path("outputs/play")
    """Folder of the recordings."""
    no_simulator: bool = False
    """Run the learned environment alone."""
    device: OptionalText = None
    """Such as cpu or cuda:1 (default: the GPU if there is one)."""
    dtype: str = "float32"
    """Precision of the learned world; bfloat16 is faster where the processor computes with it."""
    headless: OptionalPath = None
    """Replay the inputs of this JSON file instead, and write OUT/session.mp4; see worldgym.play.headless."""

    def run(self) -> None:
        from worldgym.agents.policies import find_policy
        from worldgym.devices import checked_device
        from worldgym.play.headless import replay
        from worldgym.play.server import serve
        from worldgym.play.session import PlaySession, Settings

        policy = None if self.policy is None else find_policy(self.policy)
        name = "" if self.policy is None else Path(self.policy).name
        device = checked_device(self.device)
        settings = Settings(
            self.checkpoint, self.out, self.task, not self.no_simulator, policy, name, device, self.dtype
        )
        if self.headless is not None:
            print(*replay(settings, self.headless), sep="\n")
            return
        ready = PlaySession(settings)  # what cannot be loaded is said here, and the sessions share what was
        serve(settings, self.host, self.port)
        ready.close()


def parse(arguments: Sequence[str]) -> Play:
    """Parse the command's options."""
    return parse_options(Play, arguments, "play", EXAMPLE)
