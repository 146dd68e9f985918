"""What fine-tuning changes in the network of the formation energy, with and without the old table.

    python benchmarks/tuning.py --data TABLE --n 100 1000

TABLE is the table that the shipped network was trained on. There are two cases of new rows:

- `strained`: crystals of the table with the elements of configs/eform.yaml, in cells that are stretched at random. The
  label is that of the table plus an elastic energy of at most 1.5 eV/atom. New rows are strained training rows, and
  test rows are strained test rows.
- `wbm`: hypothetical crystals of the training rows, used again as if they were new.

One thread, seed 0. Results: docs/results/proxies.md.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from crystalgfn import Crystals
from crystalgfn.crystal.crystallography import atomic_numbers
from crystalgfn.proxies.formation_energy import SHIPPED_WEIGHTS
from crystalgfn.proxies.network.property_network import PropertyNetwork
from crystalgfn.proxies.network.splits import DataConfig, split_table
from crystalgfn.proxies.network.tuning import TuningConfig, tune

ELEMENTS = tuple("H Li B C N O F Na Mg Al Si P S Cl K V Mn Fe Co Ni Cu Se".split())  # noqa: SIM905 - a list of 22
CAP = 1.5  # eV/atom


def strained(crystals: Crystals, target: Tensor, generator: torch.Generator) -> tuple[Crystals, Tensor]:
    """Crystals with changed lengths, and their labels plus the elastic energy (bulk modulus about 100 GPa)."""
    shift = 0.12 * torch.randn(len(crystals), 1, generator=generator, dtype=torch.float64)
    apart = 0.12 * torch.randn(len(crystals), 3, generator=generator, dtype=torch.float64)
    # Lengths that are equal by symmetry stay equal.
    group = crystals.space_group
    apart[group > 194] = 0
    uniaxial = (group > 74) & (group <= 194)
    apart[uniaxial, 1] = apart[uniaxial, 0]
    lattice = crystals.lattice.clone()
    lattice[:, :3] *= (shift + apart).exp()
    moved = Crystals(crystals.space_group, crystals.counts, lattice)
    volume = crystals.volume / crystals.n_atoms
    strain = (moved.volume / crystals.volume).log()
    shear = apart - apart.mean(1, keepdim=True)
    energy = volume / 160.2 * (50 * strain.square() + 50 * shear.square().sum(1))
    return moved, target + energy.clamp_max(CAP)


def mae(network: PropertyNetwork, crystals: Crystals, target: Tensor) -> str:
    """Mean absolute error, mean error and mean predicted uncertainty, as text."""
    with torch.no_grad():
        estimate = network(crystals)
    error = estimate.value - target
    return f"{error.abs().mean():.3f} ({error.mean():+.3f}; predicted {estimate.uncertainty.mean():.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the table that the network was trained on")
    parser.add_argument(
        "--cases", nargs="+", default=["strained", "wbm"], choices=["strained", "wbm"], help="default: both"
    )
    parser.add_argument("--n", type=int, nargs="+", default=[1000], help="numbers of new rows (default 1000)")
    parser.add_argument("--old", nargs="+", default=["table", "none"], choices=["table", "none"], help="default: both")
    for name in ("learning_rate", "old_share", "error_learning_rate"):
        parser.add_argument(f"--{name}", type=float, help="a field of TuningConfig")
    for name in ("steps", "passes", "support", "error_steps"):
        parser.add_argument(f"--{name}", type=int, help="a field of TuningConfig")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = ("learning_rate", "old_share", "error_learning_rate", "steps", "passes", "support", "error_steps")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    config = replace(TuningConfig(), **given)
    split = split_table(DataConfig(options.data, "formation_energy", bad_rows="skip"), 0)
    crystals, frame = split.table.crystals, split.table.frame.iloc[split.table.rows.tolist()]
    assert split.table.labels is not None
    target = split.table.labels.float()
    exact = torch.tensor((frame["formation_energy_kind"] == "exact").to_numpy())
    wbm = torch.tensor((frame["source"] == "wbm").to_numpy())
    absent = [z for z in range(crystals.counts.shape[1]) if z + 1 not in {atomic_numbers()[e] for e in ELEMENTS}]
    ours = crystals.counts[:, absent].sum(1) == 0
    train, val, test = (split.rows[name] for name in ("train", "val", "test"))
    val, test = val[exact[val]], test[exact[test]]
    shipped = PropertyNetwork.load(SHIPPED_WEIGHTS)
    for case in options.cases:
        generator = torch.Generator().manual_seed(0)
        fitting = train[(ours if case == "strained" else wbm)[train]]
        fitting = fitting[torch.randperm(len(fitting), generator=generator)]
        judged = split.rows["test"]
        judged = judged[ours[judged]] if case == "strained" else judged[(wbm & exact)[judged]]
        new, labels = crystals[fitting], target[fitting]
        unseen, truth = crystals[judged], target[judged]
        if case == "strained":
            new, labels = strained(new, labels, generator)
            unseen, truth = strained(unseen, truth, generator)
        table = {"new, unseen formulas": (unseen, truth.float())}
        table |= {"MP": (crystals[test[~wbm[test]]], target[test[~wbm[test]]])}
        table |= {"WBM": (crystals[test[wbm[test]]], target[test[wbm[test]]])}
        print(case, {name: len(labels) for name, (_, labels) in table.items()}, flush=True)
        print("shipped", {name: mae(shipped, *rows) for name, rows in table.items()}, flush=True)
        with torch.no_grad():
            errors = (shipped(new).value - labels).abs()
        for n in options.n:
            for old in options.old:
                started = time.process_time()
                rows = (crystals[train], target[train]) if old == "table" else None
                held_out = (crystals[val], target[val]) if old == "table" else None
                tuned = tune(
                    shipped, new[:n], labels[:n], errors=errors[:n], old=rows, held_out=held_out, config=config,
                    log=lambda _: None,
                )  # fmt: skip
                print(f"n {min(n, len(new))}, old {old}, {time.process_time() - started:.0f} s of CPU,", end=" ")
                print({name: mae(tuned, *rows) for name, rows in table.items()}, flush=True)


if __name__ == "__main__":
    main()
