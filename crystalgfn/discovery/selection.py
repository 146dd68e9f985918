"""Select evaluated crystals: those of some sources, or those in a table of samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crystalgfn.atoms.potentials.references import ElementReferences
from crystalgfn.crystal.tables import read_table
from crystalgfn.discovery.candidate import candidates
from crystalgfn.discovery.labels import with_energies
from crystalgfn.errors import InputError
from crystalgfn.gflownet.proxies.proxy_set import UNCERTAINTY

if TYPE_CHECKING:
    import pandas as pd

    from crystalgfn.atoms.potentials import Potential

PREDICTED = {
    "predicted": ("energy_above_hull", "predicted"),
    "predicted_uncertainty": (f"energy_above_hull{UNCERTAINTY}", "predicted_uncertainty"),
}
"""Column in the database to its possible names in a table of samples; if a table has several, the last one is used."""


def of_sources(frame: pd.DataFrame, sources: Sequence[str] | None, name: str) -> pd.DataFrame:
    """The crystals of some sources.

    Args:
        frame: what `LabelDatabase.frame` returned.
        sources: names of the sources; None for all sources.
        name: name of the database, for messages.

    Returns:
        the rows of these crystals.

    Raises:
        InputError: if the frame is empty, or one of the sources does not occur.
    """
    if frame.empty:
        raise InputError(f"--db: {name} holds no crystals")
    present = sorted(frame["source"].unique())
    unknown = [source for source in sources or [] if source not in present]
    if unknown:
        raise InputError(f"--source: {', '.join(unknown)} not in {name}; it has: {', '.join(present)}")
    return frame if sources is None else frame[frame["source"].isin(sources)].reset_index(drop=True)


def of_samples(frame: pd.DataFrame, samples: Path, name: str) -> pd.DataFrame:
    """The evaluated crystals of a table of samples, from any source.

    Samples are found by their keys, because the database may hold a sample under an earlier round or another source.
    Predictions of the energy above the hull in the table replace those in the frame.

    Args:
        frame: what `LabelDatabase.frame` returned.
        samples: CSV or parquet file, as ``crystalgfn predict`` and ``crystalgfn discover`` (chosen.csv) write it.
        name: name of the database, for messages.

    Returns:
        one row per row of the table, in its order.

    Raises:
        InputError: if the table cannot be read, or one of its crystals was not evaluated.
    """
    import pandas as pd

    table = read_table(samples)
    keys = [candidate.key for candidate in candidates(table.crystals, "samples")]
    place = {key: row for row, key in enumerate(frame["key"])}
    missing = [row for row, key in enumerate(keys) if key not in place]
    if missing:
        raise InputError(
            f"--samples: {len(missing)} of {len(keys)} crystals are not in {name} (first: row {missing[0] + 1}, "
            f"{table.frame['formula'].iloc[missing[0]]}); evaluate all of them with 'crystalgfn label'"
        )
    chosen = frame.iloc[[place[key] for key in keys]].reset_index(drop=True)
    for own, columns in PREDICTED.items():
        for column in columns:
            if column in table.frame.columns:
                chosen[own] = pd.to_numeric(table.frame[column], errors="coerce").to_numpy()
    return chosen


def with_shipped_energies(
    frame: pd.DataFrame,
    potential: Potential,
    references: Path | None = None,
    hull: Path | None = None,
    offset: float = 0.0,
) -> pd.DataFrame:
    """`with_energies` with the shipped elemental references and hull, or with those from files.

    Args:
        frame: what `LabelDatabase.frame` returned.
        potential: the potential of the energies.
        references: file of elemental references; None for the shipped ones.
        hull: file of the hull; None for the shipped one.
        offset: see `with_energies` [eV/atom].

    Raises:
        InputError: if a file cannot be read.
    """
    from crystalgfn.proxies.energy_above_hull import SHIPPED_HULL
    from crystalgfn.proxies.hull import load_hull

    return with_energies(frame, ElementReferences.load(potential, references), load_hull(hull or SHIPPED_HULL), offset)
