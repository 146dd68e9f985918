"""How good a prior is: held-out likelihood by stage, and how its samples differ from real crystals.

    python benchmarks/prior.py --table crystals.parquet [--ckpt_path universal] [--samples 1000] [--seed 0]
        [--restrict FILE]

The table has the columns of `crystalgfn.crystal.tables`, and ``split`` with train, val and test. The command prints two
Markdown tables: bits of held-out crystals under the prior and under the policy that is uniform at each decision; and
samples, not chosen, beside the test rows, which are never trained on. A test crystal is rediscovered if a sample
has its reduced formula, group and number of atoms, lengths within 10 % and angles within 5 degrees.

Results: docs/results/prior.md.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from crystalgfn.crystal.crystals import Crystals
from crystalgfn.evaluation.checks import cell_shapes, cell_volumes
from crystalgfn.evaluation.known import KNOWN_CRYSTAL, KNOWN_FORMULA, KNOWN_FORMULA_IN_GROUP, known_levels
from crystalgfn.evaluation.measures import class_counts, entropy
from crystalgfn.evaluation.pools import Pool, read_pool
from crystalgfn.gflownet.data_set import read_states
from crystalgfn.gflownet.likelihood import surprisal
from crystalgfn.proxies.priors.tables import anonymous
from crystalgfn.random import generator
from crystalgfn.runs import load
from crystalgfn.runs.model import read_restriction

TOLERANCE = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True, help="known crystals with the column split")
    parser.add_argument("--ckpt_path", default="universal", help="the prior (default universal)")
    parser.add_argument("--samples", type=int, default=1000, help="number of samples (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples (default 0)")
    parser.add_argument("--restrict", type=Path, help="restriction of the prior, as for predict")
    options = parser.parse_args()

    start = time.process_time()
    model = load(options.ckpt_path)
    restriction = None if options.restrict is None else read_restriction(options.restrict)
    env = model.module.env if restriction is None else model.module.env.restricted(restriction)

    stages = list(env.stages)
    print(f"| rows | crystals | decisions | bits | of a decision | {' | '.join(stages)} |")
    print("|---|--:|--:|--:|--:|" + "--:|" * len(stages))
    for split in ("train", "val", "test"):
        known = read_states(env, options.table, TOLERANCE, {"split": split}, "--table")
        # Of the training rows a tenth is enough.
        states = known.states[:: 10 if split == "train" else 1]
        policies = {"prior": model.module.policy, "uniform": None}
        for name, found in surprisal(env, policies, states, generator(options.seed)).items():
            parts = " | ".join(f"{found.bits_of[stage]:.2f}" for stage in stages)
            each = found.values()["bits_per_decision"]
            print(
                f"| {split}, {name} | {found.objects:,} | {found.decisions:.1f} | {found.bits:.2f} | {each:.2f} | "
                f"{parts} |"
            )
    print()
    with TemporaryDirectory() as folder:
        pools = {}
        frame = known.frame.reset_index(drop=True)
        fits = np.zeros(len(frame), dtype=bool)
        fits[known.rows.numpy()] = True
        tables = {
            "test rows": frame[fits],
            "samples": model.sample(options.samples, options.seed, restriction).to_frame(),
            "train": frame[frame["split"] == "train"],
        }
        for name, rows in tables.items():
            path = Path(folder, f"{name}.parquet")
            rows.to_parquet(path, index=False)
            pools[name] = read_pool(name, path, 1)
    print(comparison(pools["samples"], pools["test rows"], pools["train"]))
    print(f"\n{time.process_time() - start:.0f} s of processor time")


def comparison(samples: Pool, real: Pool, train: Pool) -> str:
    """A Markdown table of samples beside real crystals."""
    columns = [statistics(pool, train) for pool in (samples, real)]
    lines = [f"| | {len(samples):,} samples | {len(real):,} test rows |", "|---|--:|--:|"]
    lines += [f"| {name} | {columns[0][name]} | {columns[1][name]} |" for name in columns[0]]
    distances = {kind: distance(samples, real, kind) for kind in ("elements", "space_groups", "crystal_systems")}
    for kind, value in distances.items():
        lines.append(f"| total variation between the two, {kind.replace('_', ' ')} | {value:.2f} | |")
    levels, match = known_levels(samples, real)
    found = len(set(match[levels == KNOWN_CRYSTAL].tolist()))
    in_group = np.isin(levels, (KNOWN_CRYSTAL, KNOWN_FORMULA_IN_GROUP)).sum()
    formulas = in_group + (levels == KNOWN_FORMULA).sum()
    lines.append(
        f"| samples with the formula; formula and group; cell of a test crystal | {formulas}; {in_group}; "
        f"{(levels == KNOWN_CRYSTAL).sum()} ({found} different) | |"
    )
    return "\n".join(lines)


def statistics(pool: Pool, train: Pool) -> dict[str, str]:
    """Numbers of one table, as text."""
    shapes = cell_shapes(pool.lattice)
    per_atom = cell_volumes(pool.lattice) / pool.counts.sum(axis=1)
    n_elements = Counter((pool.counts > 0).sum(axis=1).tolist())
    known = set(prototypes(train))
    kinds = prototypes(pool)
    levels, _ = known_levels(pool, train)
    seen = np.isin(levels, (KNOWN_CRYSTAL, KNOWN_FORMULA_IN_GROUP, KNOWN_FORMULA)).mean()
    elements, groups = (class_counts(pool)[kind] for kind in ("elements", "space_groups"))
    return {
        "edges in a ratio above 5": f"{(~shapes['edge_ratio']).mean():.1%}",
        "an edge above 30 Å": f"{(~shapes['longest_edge']).mean():.1%}",
        "volume per atom, quantiles 5, 50, 95 % [Å³]": quantiles(per_atom),
        "atoms in the cell, quantiles 5, 50, 95 %": quantiles(pool.counts.sum(axis=1)),
        "elements in a crystal, 1 to 5 [%]": " ".join(f"{n_elements[n] / len(pool):.0%}"[:-1] for n in range(1, 6)),
        "elements that occur; effective number": f"{len(elements)}; {effective(elements):.0f}",
        "space groups that occur; effective number": f"{len(groups)}; {effective(groups):.0f}",
        "prototypes (group, anonymous cell) of the training rows": f"{np.mean([kind in known for kind in kinds]):.0%}",
        "formulas of the training rows": f"{seen:.1%}",
    }


def quantiles(values: np.ndarray) -> str:
    return " ".join(f"{value:.0f}" for value in np.quantile(values, (0.05, 0.5, 0.95)))


def effective(counts: dict[str, int]) -> float:
    return float(entropy(counts.values())["effective"])


def prototypes(pool: Pool) -> list[tuple[int, tuple[int, ...]]]:
    crystals: Crystals = pool.table.crystals
    return list(zip(crystals.space_group.tolist(), anonymous(crystals), strict=True))


def distance(one: Pool, other: Pool, kind: str) -> float:
    """Total variation between the shares of classes; an element counts once for each crystal that has it."""
    shares = []
    for pool in (one, other):
        counts = pd.Series(class_counts(pool)[kind], dtype=float)
        shares.append(counts / counts.sum())
    return float(shares[0].sub(shares[1], fill_value=0).abs().sum() / 2)


if __name__ == "__main__":
    main()
