"""Speed of sampling and training, compared with the policy network alone, and the share of each part.

    OMP_NUM_THREADS=1 python benchmarks/speed.py
    OMP_NUM_THREADS=1 python benchmarks/speed.py --torchgfn /tmp/torchgfn/bin/python --gfnx /tmp/gfnx/bin/python

The command prints Markdown tables. With ``--json`` it also writes all numbers to a file.

For each config and batch size, it measures the trajectories per second in sampling and in training, the ratio to the
floor, the share of each part, and the peak memory of the process. Training runs in the Trainer, with optimizer and
logging and without the callbacks of the config. The floor of sampling is one forward pass of the policy network over
all decisions of a batch. The floor of training is this pass and one forward and backward pass. A floor is measured
right after the quantity that is compared with it, and the medians of several rounds are printed. With one thread all
times are CPU time, so other programs on the machine change them little.

After that, the command measures how long a user waits for the program to start, and compares HyperGrid with other
libraries, each in its own Python environment.

Results: docs/results/speed.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from speed_parts.hypergrid import hypergrid
from speed_parts.startup import waits
from speed_parts.throughput import throughput

from crystalgfn.settings import read_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    configs = [Path("configs/eform.yaml"), Path("configs/hypergrid.yaml")]
    parser.add_argument("--config", type=Path, nargs="*", default=configs, help="configs whose models are measured")
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 100, 256, 1024, 4096], help="batch sizes")
    parser.add_argument("--rounds", type=int, default=9, help="measurements; the median is used (default 9)")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")), help="threads")
    parser.add_argument("--waits", type=Path, default=configs[0], help="config for the start-up times")
    parser.add_argument("--no-waits", action="store_true", help="do not measure start-up times")
    parser.add_argument("--torchgfn", type=Path, help="Python interpreter with torchgfn 2.4.1")
    parser.add_argument("--gfnx", type=Path, help="Python interpreter with gfnx 0.0.1")
    parser.add_argument(
        "--grid-batch",
        type=int,
        nargs="+",
        default=[16, 256, 1024],
        help="batch sizes for the comparison with other libraries",
    )
    parser.add_argument("--json", type=Path, help="file for all numbers")
    options = parser.parse_args()
    # torch and `speed_parts.model.clock` read this variable in the processes that measure.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    started = time.perf_counter()
    results: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "torch": torch.__version__,
        "configs": {},
    }
    for config in options.config:
        settings = read_config(config)["model"]
        rows = [_apart(throughput, settings, batch, options.rounds, options.threads) for batch in options.batch]
        results["configs"][str(config)] = rows
        print(f"\n`{config}`\n\n{throughput_table(rows)}", flush=True)
    if not options.no_waits:
        results["waits"] = waits(options.waits, options.threads)
        print(f"\n{waits_table(results['waits'])}", flush=True)
    if options.torchgfn or options.gfnx:
        rounds = options.rounds
        results["hypergrid"] = _apart(hypergrid, options.torchgfn, options.gfnx, options.grid_batch, rounds)
        print(f"\n{hypergrid_table(results['hypergrid'])}", flush=True)
    results["seconds"] = time.perf_counter() - started
    print(f"\n{options.threads} thread(s) of {results['cores']} cores, torch {torch.__version__}, "
          f"{results['seconds']:.0f} s in all")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def _apart(call: Any, *args: Any) -> Any:
    """The result of a call in a new process, so that other measurements do not change its memory and caches."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *args).result()


def throughput_table(rows: list[dict[str, Any]]) -> str:
    """A row for each batch size, for sampling and for training."""
    lines = [
        "| | batch | trajectories/s | CPU ms each | floor/s | ratio | network | environment | proxy | bookkeeping "
        "| peak MB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for what in ("sampling", "training"):
        for row in rows:
            own = row[what]
            shares = " | ".join(f"{own['shares'][part]:.0%}" for part in
                                ("network", "environment", "proxy", "bookkeeping"))  # fmt: skip
            lines.append(
                f"| {what} | {row['batch']:,} | {own['per_second']:,.0f} | "
                f"{1000 * own['seconds_per_trajectory']:.3f} | "
                f"{own['floor_per_second']:,.0f} | {own['ratio_to_floor']:.2f} | {shares} | "
                f"{row['peak_memory_mb']:,.0f} |"
            )
    return "\n".join(lines)


def waits_table(rows: list[dict[str, Any]]) -> str:
    """A row for each wait."""
    lines = ["| waiting for | s | CPU s | floor | CPU s | ratio |", "|---|--:|--:|---|--:|--:|"]
    lines += [
        f"| {row['what']} | {row['seconds']:.2f} | {row['cpu_seconds']:.2f} | `{row['floor']}` | "
        f"{row['floor_cpu_seconds']:.2f} | {row['ratio_to_floor']:.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


def hypergrid_table(rows: list[dict[str, Any]]) -> str:
    """Trajectories per second, mean number of actions, and how many times slower than crystalgfn."""
    names = [name for name in rows[0] if isinstance(rows[0][name], dict)]
    head = ["", "batch", *(f"{name}/s | actions" for name in names), *(f"times {n}" for n in names[1:])]
    count = 2 + 2 * len(names) + len(names) - 1
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (count - 1)]
    for row in rows:
        cells = [f"{row[n]['per_second']:,.0f} | {row[n]['actions']:.1f}" for n in names]
        cells += [f"{row[n]['times_slower']:.1f}" for n in names[1:]]
        lines.append(f"| {row['what']} | {row['batch']:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
