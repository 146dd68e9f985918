"""Compare restricted with unrestricted samples: the four cases of the Crystal-GFN paper (arXiv 2310.04925).

    python benchmarks/restriction.py --ckpt_path CKPT --out DIR [--finetune_steps 200]
    python benchmarks/restriction.py --tables

The first command runs ``crystalgfn predict`` without a restriction, and then with each of these files in
configs/restrictions: fe_o.yaml (A), li_mn_o.yaml (B), cubic.yaml (C) and narrow_cell.yaml (D). Each restriction is used
twice, without and with fine-tuning. The samples and restriction.png are written to DIR, and a Markdown table is
printed. Times are the CPU time of a whole command.

The second command prints how long it takes to compute the look-ahead tables of some restrictions of the space in
configs/crystals.yaml.

Results: docs/results/restriction.md.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import gaussian_kde

from crystalgfn import Crystal
from crystalgfn.cli import main as crystalgfn
from crystalgfn.crystal.restriction import Restriction
from crystalgfn.settings import read_config, read_yaml

CASES = {
    "A": ("fe_o", "only Fe and O, ≤ 10 atoms each"),
    "B": ("li_mn_o", "ternary Li–Mn–O, ≤ 16 atoms each"),
    "C": ("cubic", "cubic lattices"),
    "D": ("narrow_cell", "lengths 10–20 Å, angles 75–135°"),
}
FILES = Path(__file__).parent.parent / "configs" / "restrictions"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="measure the look-ahead tables instead")
    parser.add_argument("--ckpt_path", help="checkpoint of the model; needed without --tables")
    parser.add_argument("--out", type=Path, help="folder for the results; needed without --tables")
    parser.add_argument("--num_samples", type=int, default=10_000, help="samples of each case (default 10,000)")
    parser.add_argument("--finetune_steps", type=int, default=200, help="0 for no fine-tuning (default 200)")
    parser.add_argument("--finetune_lr", type=float, default=1e-3, help="learning rate of fine-tuning (default 0.001)")
    parser.add_argument("--seed", type=int, default=0, help="seed of sampling (default 0)")
    parser.add_argument(
        "--property",
        default="formation_energy",
        help="column of the samples that is compared (default formation_energy)",
    )
    options = parser.parse_args()
    if options.tables:
        time_tables()
        return
    if options.ckpt_path is None or options.out is None:
        parser.error("--ckpt_path and --out are needed")
    options.out.mkdir(parents=True, exist_ok=True)
    print("| | median | below −2 | different compositions in a group | CPU time [s] |\n|---|--:|--:|--:|--:|")
    tables = {"": sample(options, "unrestricted", [])}
    report("unrestricted", *tables[""], options.property)
    for case, (name, title) in CASES.items():
        restrict = ["--data.restrict", str(FILES / f"{name}.yaml")]
        tables[case] = sample(options, name, restrict)
        report(f"{case}: {title}", *tables[case], options.property)
        if options.finetune_steps:
            steps = ["--data.finetune_steps", str(options.finetune_steps), "--data.finetune_lr"]
            tables[f"{case} tuned"] = sample(
                options, f"{name}_finetuned", [*restrict, *steps, str(options.finetune_lr)]
            )
            report(f"{case}, {options.finetune_steps} steps", *tables[f"{case} tuned"], options.property)
    draw({key: table[options.property] for key, (table, _) in tables.items()}, options)


def time_tables() -> None:
    """Print the CPU time to compute the look-ahead tables of the model and of some restrictions of it."""
    settings = read_config(FILES.parent / "crystals.yaml")["model"]["env"]["init_args"]
    start = time.process_time()
    env = Crystal(**settings)
    print(f"| restriction | CPU time [s] |\n|---|--:|\n| none | {time.process_time() - start:.1f} |")
    for name in (*(name for name, _ in CASES.values()), "small_cubic"):
        time_restriction(env, f"{name}.yaml", read_yaml(FILES / f"{name}.yaml", "restrict"))
    pairs = [["Li", "H"], ["Na", "K"], ["Mg", "Al"], ["S", "Se"]]
    for fields in ({"forbidden_pairs": pairs}, {"max_atoms": 20}, {"max_atoms": 60}):
        time_restriction(env, ", ".join(f"{key}: {value}" for key, value in fields.items()), fields)


def time_restriction(env: Crystal, title: str, fields: dict) -> None:
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env.restricted(Restriction.parse(fields))
    print(f"| {title} | {time.process_time() - start:.1f} |", flush=True)


def sample(options: argparse.Namespace, name: str, more: list[str]) -> tuple[pd.DataFrame, float]:
    """A table of samples, and the CPU time [s] of sampling it."""
    path = options.out / f"{name}.csv"
    common = ["--data.num_samples", str(options.num_samples), "--data.seed", str(options.seed), "--data.out", str(path)]
    quiet = ["--trainer.enable_progress_bar", "false"]
    start = time.process_time()
    if crystalgfn(["predict", "--ckpt_path", options.ckpt_path, *common, *quiet, *more]):
        raise SystemExit(f"predict failed for {name}")
    return pd.read_csv(path), time.process_time() - start


def report(title: str, table: pd.DataFrame, seconds: float, name: str) -> None:
    values = table[name]
    compositions = len(table[["formula", "space_group"]].drop_duplicates())
    print(
        f"| {title} | {values.median():.2f} | {(values < -2).mean():.1%} | {compositions:,} | {seconds:.0f} |",
        flush=True,
    )


def draw(values: dict[str, pd.Series], options: argparse.Namespace) -> None:
    """Draw a panel for each case: densities of the property, unrestricted, restricted and fine-tuned."""
    low = min(v.quantile(0.002) for v in values.values()) - 0.2
    high = max(v.quantile(0.998) for v in values.values()) + 0.2
    grid, bins = np.linspace(low, high, 400), np.linspace(low, high, 61)
    fig, axes = plt.subplots(2, 2, figsize=(9, 6.2), sharex=True, layout="constrained")
    for axis, (case, (_, title)) in zip(axes.flat, CASES.items(), strict=True):
        curves = [("", "unrestricted", "0.55"), (case, "restricted", "C0"), (f"{case} tuned", "fine-tuned", "C1")]
        for key, label, colour in curves:
            if key not in values:
                continue
            axis.hist(values[key], bins, density=True, color=colour, alpha=0.25)
            median = f"{label}, median {values[key].median():.2f}"
            axis.plot(grid, gaussian_kde(values[key])(grid), color=colour, label=median)
        axis.set_title(f"{case}  {title}", fontsize=10, loc="left")
        axis.legend(fontsize=8, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_yticks([])
    unit = " [eV/atom]" if options.property == "formation_energy" else ""
    fig.supxlabel(f"{options.property.replace('_', ' ')}{unit}", fontsize=10)
    fig.supylabel("density", fontsize=10)
    fig.savefig(options.out / "restriction.png", dpi=100)


if __name__ == "__main__":
    main()
