"""How time and memory grow with the number of elements, space groups and atoms, and with the batch.

    python benchmarks/growth.py --out growth

This writes growth.json, growth.md and growth.png. For each setting, a separate process builds the environment of
crystals, samples and trains, so its peak of memory does not depend on other settings. Seconds are CPU seconds of one
thread. The exponent is the slope of the line through the logarithms of the last three points.

Results: docs/results/scale.md.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

BATCH = 1024
BASE = {"elements": 94, "space_groups": 230, "max_atoms_per_element": 16, "max_atoms": 80, "batch": BATCH}
"""One setting is varied at a time. A crystal has at most 5 elements, so the limit of 80 atoms has no effect."""

COMMON = [
    "H", "Li", "B", "C", "N", "O", "F", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "K", "V", "Mn", "Fe", "Co", "Ni", "Cu",
    "Se",
]  # fmt: skip
"""The elements of the shipped configs."""

SWEEPS: dict[str, tuple[str, str, list[dict[str, int]]]] = {
    "elements": ("elements", "elements", [{"elements": n} for n in (12, 22, 47, 94)]),
    "elements, at most 40 atoms": (
        "elements", "elements", [{"elements": n, "max_atoms": 40} for n in (12, 22, 47, 94)]
    ),
    "space groups": ("space_groups", "space groups", [{"space_groups": n} for n in (29, 58, 113, 230)]),
    "atoms of an element": (
        "max_atoms_per_element", "atoms of an element",
        [{"max_atoms_per_element": n, "max_atoms": 5 * n} for n in (8, 16, 32, 64)],
    ),
    "atoms of an element, at most 40 atoms": (
        "max_atoms_per_element", "atoms of an element",
        [{"max_atoms_per_element": n, "max_atoms": 40} for n in (8, 16, 32)],
    ),
    "batch": ("batch", "batch", [{"batch": n} for n in (16, 64, 256, 1024, 4096)]),
}  # fmt: skip
"""By name: the setting that is varied, its label on an axis, and the settings that change at each point."""

MEASURES = {
    "build_s": ("building the environment", "CPU s"),
    "tables_mb": ("its tables", "MB"),
    "build_peak_mb": ("growth of the peak memory while building", "MB"),
    "sample_s": ("sampling a batch", "CPU s"),
    "train_s": ("training on a batch", "CPU s"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("growth"), help="name of the files, without ending (default growth)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="measurements of sampling and training; the median is used (default 3)"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(json.loads(options.one), options.rounds)))
        return
    started = time.time()
    known: dict[str, dict[str, float]] = {}
    results = []
    for name, (varied, _, points) in SWEEPS.items():
        for point in points:
            settings = BASE | point
            key = json.dumps(settings)
            if key not in known:
                command = [sys.executable, __file__, "--one", key, "--rounds", str(options.rounds)]
                known[key] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            results.append({"sweep": name, "x": settings[varied], **settings, **known[key]})
            print(results[-1], flush=True)
    machine = f"{platform.machine()}, one thread, Python {platform.python_version()}"
    content = {"machine": machine, "seconds": round(time.time() - started), "results": results}
    options.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(table(results))
    figure(results, options.out.with_suffix(".png"))


def measure(settings: dict[str, int], rounds: int) -> dict[str, float]:
    """Build the environment, sample and train in this process."""
    import torch

    from crystalgfn import Crystal, GFlowNet
    from crystalgfn.crystal.crystallography import element_symbols
    from crystalgfn.gflownet.losses import trajectory_balance
    from crystalgfn.gflownet.policies import MLP
    from crystalgfn.gflownet.rewards import Boltzmann
    from crystalgfn.gflownet.rollout import log_forward, sample_forward
    from crystalgfn.proxies import Density
    from crystalgfn.random import generator

    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # The elements of the configs come first: they include anions and cations. Space groups are spread evenly.
    elements = [*COMMON, *(symbol for symbol in element_symbols() if symbol not in COMMON)][: settings["elements"]]
    groups = [1 + i * 230 // settings["space_groups"] for i in range(settings["space_groups"])]
    atoms = {name: settings[name] for name in ("max_atoms", "max_atoms_per_element")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env, build = timed(lambda: Crystal(space_groups=groups, elements=elements, volume_per_atom=(7, 60), **atoms))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = GFlowNet(env, Density(), Boltzmann(-1.0), lambda sizes: MLP(sizes, (256, 256)))
    stream, batch = generator("growth"), settings["batch"]

    def train() -> None:
        drawn, _ = sample_forward(env, model.policy, batch, stream)
        _, log_reward, _ = model.evaluate(drawn.states)
        log_pf = log_forward(env, model.policy, drawn)
        trajectory_balance(model.log_z, log_pf, drawn.log_pb, log_reward).mean().backward()

    def median(call: Any) -> float:
        call()  # the first call is slower
        return sorted(timed(call)[1] for _ in range(rounds))[rounds // 2]

    return {
        "build_s": build,
        "tables_mb": sum(buffer.nbytes for buffer in env.buffers()) / 1e6,
        "build_peak_mb": (after - before) / 1024,
        "sample_s": median(lambda: sample_forward(env, model.policy, batch, stream)),
        "train_s": median(train),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def timed(call: Any) -> tuple[Any, float]:
    started = time.process_time()
    result = call()
    return result, time.process_time() - started


def exponent(x: list[float], y: list[float]) -> float:
    """The slope of the line through the logarithms of the last three points."""
    pairs = [(math.log(a), math.log(b)) for a, b in zip(x, y, strict=True)][-3:]
    mean_x, mean_y = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    return sum((a - mean_x) * (b - mean_y) for a, b in pairs) / sum((a - mean_x) ** 2 for a, _ in pairs)


def table(results: list[dict[str, Any]]) -> str:
    """A Markdown table with a row for each point, and the exponents below each sweep."""
    lines = [
        "| varied | value | build [CPU s] | tables [MB] | build peak [MB] | sampling [CPU s] | training [CPU s] |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name in SWEEPS:
        rows = [row for row in results if row["sweep"] == name]
        for row in rows:
            values = (f"{row[key]:.3g}" if row[key] < 100 else f"{row[key]:.0f}" for key in MEASURES)
            lines.append(f"| {name} | {row['x']} | {' | '.join(values)} |")
        x = [row["x"] for row in rows]
        powers = " | ".join(f"**{exponent(x, [row[key] for row in rows]):.2f}**" for key in MEASURES)
        lines.append(f"| {name} | exponent | {powers} |")
    return "\n".join(lines) + "\n"


def figure(results: list[dict[str, Any]], path: Path) -> None:
    """Draw a panel for each measure, with a line for each sweep."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = ("build_s", "tables_mb", "sample_s", "train_s")
    fig, axes = plt.subplots(2, 2, figsize=(11, 10), layout="constrained")
    for axis, key in zip(axes.flat, shown, strict=True):
        for name in SWEEPS:
            if name == "batch" and key in ("build_s", "tables_mb"):
                continue
            rows = [row for row in results if row["sweep"] == name]
            x, y = [row["x"] for row in rows], [row[key] for row in rows]
            axis.loglog(x, y, "o-", markersize=4, label=f"{name}: {exponent(x, y):.2f}")
        title, unit = MEASURES[key]
        axis.set(title=title[0].upper() + title[1:], ylabel=unit, xlabel="value of the varied setting")
        axis.grid(alpha=0.3, which="both")
        axis.legend(
            fontsize=7, title="exponent", title_fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncol=2
        )
    fig.savefig(path, dpi=120)
    plt.close(fig)


if __name__ == "__main__":
    main()
