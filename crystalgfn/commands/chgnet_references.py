"""``crystalgfn chgnet-references``: elemental references for formation energies from CHGNet."""

from __future__ import annotations

from pathlib import Path


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``chgnet-references``: ``TABLE STRUCTURES --out FILE [...]``.

    Returns:
        exit status 0.

    Raises:
        InputError: for tables or an output that cannot be used.
        SystemExit: with status 2 for options that cannot be parsed, with 0 after ``--help``.
    """
    import argparse

    parser = argparse.ArgumentParser(
        prog="crystalgfn chgnet-references", description="Fit elemental references for formation energies from CHGNet."
    )
    parser.add_argument("table", type=Path, help="table with the columns material_id, formula, formation_energy")
    parser.add_argument("structures", type=Path, help="table with the columns material_id, cif")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--split", default="train", help="rows of the column 'split' to use, if there is one")
    parser.add_argument(
        "--per-element", type=int, default=60, help="at least so many crystals an element, if there are"
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses the crystals")
    options = parser.parse_args(args)

    from crystalgfn.atoms.potentials.fitting import make

    references = make(options.table, options.structures, options.out, options.split, options.per_element, options.seed)
    recipe = references.recipe
    print(f"{options.out}: {len(references.energies)} elements from {recipe['crystals']} crystals, "
          f"mean absolute residual {recipe['mean_absolute_residual']:.3f} eV/atom")  # fmt: skip
    return 0
