"""Peak memory and CPU time of ``crystalgfn predict`` for growing numbers of samples; memory must not grow.

    python benchmarks/million.py --config configs/hypergrid.yaml --samples 10000 100000 1000000

This trains for a few steps in a temporary folder, then samples in a separate process for each number.

Results: docs/results/scale.md.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/hypergrid.yaml"), help="config of the model")
    parser.add_argument(
        "--samples", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="numbers of samples"
    )
    parser.add_argument("--steps", type=int, default=100, help="training steps (default 100)")
    parser.add_argument("--predict", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.predict:
        predict(*options.predict)
        return
    print("| samples | peak [MB] | CPU s | table [MB] |\n|--:|--:|--:|--:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        quiet = ["--trainer.enable_progress_bar", "false", "--trainer.val_check_interval", str(options.steps)]
        fit = ["fit", "--config", str(options.config.resolve()), "--trainer.max_steps", str(options.steps), *quiet]
        subprocess.run([sys.executable, "-m", "crystalgfn", *fit], cwd=folder, check=True, capture_output=True)
        checkpoint = next(Path(folder).glob("logs/*/version_0/checkpoints/last.ckpt"))
        for number in options.samples:
            command = [sys.executable, str(Path(__file__).resolve()), "--predict", str(checkpoint), str(number)]
            done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
            print(done.stdout.splitlines()[-1], flush=True)


def predict(checkpoint: str, number: str) -> None:
    """Sample in this process, and print a row of the table."""
    from crystalgfn.cli import main as command_line

    options = ["--data.num_samples", number, "--data.out", "out.csv", "--trainer.enable_progress_bar", "false"]
    code = command_line(["predict", "--ckpt_path", checkpoint, *options])
    if code:
        sys.exit(code)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = Path("out.csv").stat().st_size / 1e6
    print(f"| {int(number):,} | {peak:.0f} | {time.process_time():.0f} | {size:.1f} |")


if __name__ == "__main__":
    main()
