"""``crystalgfn references``: fit elemental references, which convert a potential's energies to formation energies."""

from __future__ import annotations

from pathlib import Path

from crystalgfn.commands.options import DEFAULT_POTENTIAL, Parser, add_potential


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``references``: ``TABLE STRUCTURES --out FILE [...]``.

    Returns:
        exit status 0.

    Raises:
        InputError: if a table, the output or an option cannot be used.
        SystemExit: with status 2 if the options cannot be parsed, with 0 after ``--help``.
    """
    parser = Parser(
        prog="crystalgfn references",
        description="Fit elemental references, which convert a potential's energies to formation energies.",
    )
    parser.add_argument("table", type=Path, help="table with the columns material_id, formula and formation_energy")
    parser.add_argument("structures", type=Path, help="table with the columns material_id and cif")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    add_potential(parser, DEFAULT_POTENTIAL)
    parser.add_argument(
        "--split",
        default="train",
        help="value of the column split in the rows to use; ignored if there is no such column (default %(default)s)",
    )
    parser.add_argument(
        "--per-element",
        type=int,
        default=60,
        help="crystals for each element; fewer if the table has fewer (default %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the random choice of crystals (default %(default)s)"
    )
    options = parser.parse_args(args)

    from crystalgfn.atoms import require_extra

    require_extra()
    from crystalgfn.atoms.potentials import fitting, make

    references = fitting.make(
        options.table, options.structures, options.out, make(options.potential), options.split, options.per_element,
        options.seed,
    )  # fmt: skip
    recipe = references.recipe
    print(f"{options.out}: {len(references.energies)} elements from {recipe['crystals']} crystals, "
          f"mean absolute residual {recipe['mean_absolute_residual']:.3f} eV/atom")  # fmt: skip
    return 0
