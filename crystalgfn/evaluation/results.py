"""All numbers of an evaluation, computed from pools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalgfn import __version__
from crystalgfn.crystal.crystallography import space_groups
from crystalgfn.crystal.crystals import LATTICE_PARAMETERS
from crystalgfn.evaluation import checks as checking
from crystalgfn.evaluation import known
from crystalgfn.evaluation.cif_files import Structures, read_structures
from crystalgfn.evaluation.measures import (
    DENSITY_PERCENTILES,
    DENSITY_RANGE,
    HARD_CHECKS,
    all_hard,
    check_all,
    coverage,
    diversity,
    sampler_quality,
    statistics,
    uniqueness,
    validity,
)
from crystalgfn.evaluation.pools import (
    DERIVED,
    Pool,
    add_properties,
    choose_properties,
    derived,
    problems_of,
)

if TYPE_CHECKING:
    from crystalgfn.gflownet.proxies.base import Proxy

FORMAT = 1
"""Version of the format of ``metrics.json``."""

SAMPLES, REFERENCE_TABLE = "samples", "reference"
"""Names of the two main tables in the report."""


@dataclass(frozen=True)
class Evaluation:
    """The content of a page.

    Attributes:
        metrics: the numbers, as plain values.
        pools: the samples, then further tables of samples.
        reference: known crystals; None if there are none.
        structures: structures of the samples; None if there are none.
    """

    metrics: dict[str, Any]
    pools: list[Pool]
    reference: Pool | None
    structures: Structures | None


def measure(
    pools: list[Pool],
    reference: Pool | None,
    *,
    top: int,
    structures: Path | None,
    proxy: Proxy | None,
    properties: Sequence[str] | None,
    oxidation_states: str,
    mixed_valence: bool,
) -> Evaluation:
    """Compute all numbers. The arguments are those of `crystalgfn.evaluation.evaluate`, with pools for the tables."""
    everything = [*pools, *([reference] if reference is not None else [])]
    names = choose_properties(pools, properties, proxy)
    predicted = {pool.name: add_properties(pool, names, proxy) for pool in everything}
    density_range = DENSITY_RANGE
    if reference is not None:
        low, high = np.percentile(derived(reference, "density"), DENSITY_PERCENTILES)
        density_range = (float(low), float(high))
    checks = {
        # SMACT's test of tens of thousands of known crystals would take longer than everything else.
        pool.name: check_all(pool, oxidation_states, mixed_valence, density_range, with_smact=pool is not reference)
        for pool in everything
    }
    levels = {pool.name: known.known_levels(pool, reference) for pool in pools} if reference is not None else {}
    built = read_structures(structures, pools[0]) if structures is not None else None
    metrics: dict[str, Any] = {
        "format": FORMAT,
        "version": __version__,
        "settings": {
            "top": top,
            "oxidation_states": oxidation_states,
            "mixed_valence": mixed_valence,
            "density_range": list(density_range),
            "density_range_from": "reference" if reference is not None else "default",
            "lattice_system_tolerance": [checking.LENGTH_TOLERANCE, checking.ANGLE_TOLERANCE],
            "cell_shape": [checking.MAX_EDGE_RATIO, checking.MAX_EDGE],
            "novelty_tolerance": [known.LENGTH_TOLERANCE, known.ANGLE_TOLERANCE],
            "proxy": type(proxy).__name__ if proxy is not None else None,
            "smact_states": checking.SMACT_OXIDATION_STATES,
            "versions": {
                "pymatgen": version("pymatgen"),
                "pyxtal": version("pyxtal"),
                "smact": checking.smact_version(),
            },
        },
        "tables": {
            pool.name: {
                "file": pool.table.path.name,
                "rows": len(pool.table.problems),
                "readable": len(pool),
                "problems": problems_of(pool.table),
            }
            for pool in everything
        },
        "uniqueness": {pool.name: uniqueness(pool) for pool in everything},
        "validity": {pool.name: validity(pool, checks[pool.name]) for pool in everything},
        "novelty": None
        if reference is None
        else {
            pool.name: known.novelty(pool, reference, *levels[pool.name], all_hard(checks[pool.name])) for pool in pools
        },
        "diversity": {pool.name: diversity(pool) for pool in everything},
        "coverage": {pool.name: coverage(pool) for pool in everything},
        "properties": {name: _property(name, everything, proxy, predicted) for name in names},
        "sampler": {pool.name: sampler_quality(pool) for pool in pools},
        "structures": built.summary() if built is not None else None,
        "top": _best(pools[0], checks[pools[0].name], levels.get(SAMPLES, (None,))[0], built),
    }
    return Evaluation(metrics, pools, reference, built)


def _property(name: str, pools: list[Pool], proxy: Proxy | None, predicted: dict[str, list[str]]) -> dict[str, Any]:
    """Unit and statistics of one property, in all crystals and in the best ones."""
    having = [pool for pool in pools if name in pool.properties]
    return {
        "unit": unit_of(name, proxy),
        "predicted_for": [pool.name for pool in having if name in predicted[pool.name]],
        "all": {pool.name: statistics(pool.properties[name]) for pool in having},
        "top": {pool.name: statistics(pool.properties[name][pool.top]) for pool in having if pool.top is not None},
    }


def unit_of(name: str, proxy: Proxy | None) -> str:
    """Unit of a property, from the chosen proxy, `DERIVED` or a registered proxy; an empty string if none has it."""
    from crystalgfn.registry import PROXIES

    if proxy is not None and proxy.name == name:
        return proxy.unit
    if name in DERIVED:
        return DERIVED[name]
    units = {getattr(PROXIES.get(key), "name", None): getattr(PROXIES.get(key), "unit", "") for key in PROXIES}
    return str(units.get(name, ""))


def _best(
    pool: Pool, checks: Mapping[str, checking.Mask], levels: known.Ints | None, structures: Structures | None
) -> list[dict[str, Any]]:
    """One entry for each of the best crystals, best first; empty if there is no log R."""
    if pool.top is None or pool.log_reward is None:
        return []
    rows = pool.top
    formulas = pool.table.crystals[pool.table.crystals.space_group.new_tensor(rows)].formulas()
    entries = []
    for rank, (row, number, formula) in enumerate(zip(rows.tolist(), pool.row_numbers(rows), formulas, strict=True), 1):
        group = space_groups()[int(pool.groups[row]) - 1]
        built = int(structures.of_sample[row]) if structures is not None else -1
        file = structures.files[built] if structures is not None and built >= 0 else None
        entries.append(
            {
                "rank": rank,
                "row": number,
                "formula": formula,
                "space_group": group.number,
                "symbol": group.symbol,
                "crystal_lattice_system": group.crystal_lattice_system,
                **dict(zip(LATTICE_PARAMETERS, pool.lattice[row].tolist(), strict=True)),
                "properties": {name: _finite(values[row]) for name, values in pool.properties.items()},
                "log_reward": _finite(pool.log_reward[row]),
                "log_pf": _finite(pool.log_pf[row]) if pool.log_pf is not None else None,
                "failed": [name for name in (*HARD_CHECKS, "cell_shape", "density_in_range") if not checks[name][row]],
                "known": known.LEVELS[int(levels[row])] if levels is not None else None,
                "cif": file.name if file is not None else None,
                "structure": structures.row(built) if structures is not None else None,
            }
        )
    return entries


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
