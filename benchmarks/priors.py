"""The chemist's priors: make their tables, and measure how well they separate known crystals from samples.

    python benchmarks/priors.py table --data FOLDER
    python benchmarks/priors.py compare --data FOLDER --samples A.csv [--samples B.csv ...]
    python benchmarks/priors.py speed --samples SAMPLES.csv

FOLDER has crystals.parquet, a table of crystals (docs/proxies.md) with the columns source and split.

``table`` writes the shipped tables from the training rows of the Materials Project. Rows of WBM are not used, because
its crystals are hypothetical.

``compare`` uses the rows with the elements of configs/eform.yaml, at most --atoms atoms in the conventional cell, at
most --elements elements, and neutral charge with one oxidation state for each element.

``speed`` measures the CPU time of each prior. Each command uses one thread and takes some seconds.

Results: docs/results/priors.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from crystalgfn import Crystals, Proxy
from crystalgfn.crystal.crystallography import atomic_numbers, element_symbols
from crystalgfn.crystal.tables import read_table
from crystalgfn.proxies import (
    AnionKinds,
    AtomCount,
    ElectronegativityOrder,
    ElementCount,
    FormulaRarity,
    PrototypeRarity,
    VolumeMismatch,
)
from crystalgfn.proxies.priors.tables import anonymous, read_prototypes, write_tables

PRIORS = (
    VolumeMismatch,
    FormulaRarity,
    PrototypeRarity,
    ElectronegativityOrder,
    AnionKinds,
    AtomCount,
    ElementCount,
)
ELEMENTS = [*"HBCNOFPSKV", "Li", "Na", "Mg", "Al", "Si", "Cl", "Mn", "Fe", "Co", "Ni", "Cu", "Se"]
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95)


def known(folder: Path, split: str) -> Crystals:
    """The crystals of the Materials Project in a split."""
    table = read_table(folder / "crystals.parquet", strict=False)
    frame = table.frame.iloc[table.rows.tolist()].reset_index(drop=True)
    rows = ((frame["split"] == split) & (frame["source"] != "wbm")).to_numpy()
    return table.crystals[torch.tensor(rows)]


def within(crystals: Crystals, atoms: int, elements: int) -> torch.Tensor:
    """(n,) bool, True for crystals with elements of the config only, and not too many elements or atoms."""
    allowed = torch.tensor([symbol in ELEMENTS for symbol in element_symbols()])
    present = crystals.counts > 0
    return ~(present & ~allowed).any(1) & (crystals.n_atoms <= atoms) & (present.sum(1) <= elements)


def separation(real: torch.Tensor, samples: torch.Tensor) -> float:
    """Probability that a sample has a higher value than a known crystal; equal values count half."""
    rising = real.sort().values
    below = torch.searchsorted(rising, samples)
    up_to = torch.searchsorted(rising, samples, right=True)
    return ((below + up_to).double() / (2 * len(real))).mean().item()


def compare(args: argparse.Namespace) -> None:
    columns = {}
    for split in ("train", "val"):
        crystals = known(args.data, split)
        crystals = crystals[within(crystals, args.atoms, args.elements)]
        # All crystals of the environment are neutral with one oxidation state for each element.
        columns[f"known, {split}"] = crystals[ElectronegativityOrder().assign(crystals.counts).neutral]
    columns |= {path.stem: read_table(path).crystals for path in args.samples}
    print(*(f"{name}: {len(crystals)} crystals" for name, crystals in columns.items()), sep="; ")
    print("| prior | of | " + " | ".join(f"{100 * q:.0f} %" for q in QUANTILES) + " | mean | P(sample > known) |")
    print("|---" * (len(QUANTILES) + 4) + "|")
    for kind in PRIORS:
        prior = kind()
        values = {name: prior(crystals) for name, crystals in columns.items()}
        for name, found in values.items():
            quantiles = found.quantile(torch.tensor(QUANTILES, dtype=torch.float64)).tolist()
            numbers = " | ".join(f"{q:.2f}" for q in [*quantiles, found.mean().item()])
            print(f"| `{prior.name}` | {name} | {numbers} | {separation(values['known, train'], found):.2f} |")
    order, prototypes = ElectronegativityOrder(), read_prototypes()
    for name, crystals in columns.items():
        cells = zip(crystals.space_group.tolist(), anonymous(crystals), strict=True)
        seen = sum(cell in prototypes for cell in cells) / len(crystals)
        print(
            f"{name}: {(order(crystals) == 0).double().mean():.1%} in order, {seen:.1%} of a known prototype, "
            f"{crystals.space_group.unique().numel()} groups, {int((crystals.counts > 0).any(0).sum())} elements, "
            f"{(crystals.counts[:, atomic_numbers()['O'] - 1] > 0).double().mean():.1%} with oxygen"
        )


def milliseconds(prior: Proxy, crystals: Crystals) -> float:
    """The shortest CPU time [ms] of 20 evaluations."""
    times = []
    for _ in range(20):
        started = time.process_time()
        prior(crystals)
        times.append(time.process_time() - started)
    return 1000 * min(times)


def speed(args: argparse.Namespace) -> None:
    crystals = read_table(args.samples).crystals[: args.batch]
    times = {kind.name: milliseconds(kind(), crystals) for kind in PRIORS}
    for name, took in times.items():
        print(f"{name:<24} {took:6.2f} ms for {len(crystals)} crystals")
    print(f"{'together':<24} {sum(times.values()):6.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("table", "compare", "speed"):
        command = commands.add_parser(name)
        if name != "speed":
            command.add_argument("--data", type=Path, required=True, help="folder with crystals.parquet")
    commands.choices["compare"].add_argument(
        "--samples", type=Path, action="append", required=True, help="table of samples; may be repeated"
    )
    commands.choices["speed"].add_argument("--samples", type=Path, required=True, help="table of crystals")
    commands.choices["compare"].add_argument("--atoms", type=int, default=24, help="most atoms (default 24)")
    commands.choices["compare"].add_argument("--elements", type=int, default=4, help="most elements (default 4)")
    commands.choices["speed"].add_argument("--batch", type=int, default=512, help="crystals in a batch (default 512)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.command == "table":
        crystals = known(args.data, "train")
        write_tables(crystals)
        print(f"counted {len(crystals)} crystals")
    else:
        {"compare": compare, "speed": speed}[args.command](args)


if __name__ == "__main__":
    main()
