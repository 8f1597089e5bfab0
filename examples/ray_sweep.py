"""Train agents of several seeds at once on a Ray cluster. What follows -- is a command of worldgym:

    python examples/ray_sweep.py --seeds 0 1 2 --out runs/sweep -- mbpo --task plate-slide --preset cpu
    worldgym curves runs/sweep/seed-0 runs/sweep/seed-1 runs/sweep/seed-2 --out runs/sweep.png

Ray starts the run of a dead process or machine again, up to three times, and it goes on from its last checkpoint. The
same call continues a sweep that was stopped. --out has to be a folder that all machines see.

Needs Ray, and the simulator on all machines: pip install .[ray,metaworld] in the checkout
"""

import argparse
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import ray

from worldgym.cli import main as worldgym

OUTPUT = "output.txt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="+", help="a command of worldgym, such as drqv2 or mbpo, and its options")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run for each (default: 0 1 2)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, seed-0 and so on")
    parser.add_argument("--ray", default="auto", help="address of the cluster; local starts one (default: auto)")
    parser.add_argument("--cpus", type=float, default=1, help="CPUs of a run (default: 1)")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of a run; 0.5 shares one by two (default: 0)")
    options = parser.parse_args()

    ray.init(options.ray, include_dashboard=False, log_to_driver=False)
    remote = ray.remote(num_cpus=options.cpus, num_gpus=options.gpus)(train)
    folders = {seed: (options.out / f"seed-{seed}").resolve() for seed in options.seeds}
    running = {remote.remote(options.command, seed, folder): folder for seed, folder in folders.items()}
    failed = 0
    while running:
        (finished,), _ = ray.wait(list(running))
        folder = running.pop(finished)
        try:
            status = ray.get(finished)
        except ray.exceptions.RayError as error:  # its process died again and again
            print(error, file=sys.stderr)
            status = 1
        failed += status != 0
        print(f"{folder}: finished" if status == 0 else f"{folder}: failed, see {OUTPUT} there", flush=True)
    sys.exit(failed > 0)


def train(command: list[str], seed: int, folder: Path) -> int:
    """Begin a run, or continue the one in the folder; the exit status."""
    resume = ["--resume"] if (folder / "config.json").exists() else []
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / OUTPUT).open("a") as file, redirect_stdout(file), redirect_stderr(file):
        return worldgym([*command, "--seed", str(seed), "--out", str(folder), *resume])


if __name__ == "__main__":
    main()
