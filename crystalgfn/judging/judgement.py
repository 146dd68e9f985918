"""Judge crystals: relax them with several potentials, place them on the hull, and compare them with known ones."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalgfn import __version__
from crystalgfn.atoms import require_extra
from crystalgfn.atoms.outputs import write_cif
from crystalgfn.atoms.potentials import make
from crystalgfn.atoms.potentials.references import ElementReferences
from crystalgfn.atoms.run import Workers, results, run
from crystalgfn.atoms.tables import versions
from crystalgfn.errors import InputError
from crystalgfn.files import atomic_path, write_frame
from crystalgfn.judging.known import Reference
from crystalgfn.judging.relaxing import FUNCTION
from crystalgfn.judging.sources import GIVEN, Given, check_names, from_structures, read_given
from crystalgfn.judging.verdict import Judge, judge_crystals, slug, summarize
from crystalgfn.proxies.energy_above_hull import SHIPPED_HULL
from crystalgfn.proxies.hull import ConvexHull, ReferenceHull, open_hull

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure

    from crystalgfn.atoms.potentials import Potential

POTENTIALS = ("chgnet", "sevennet")
"""The potentials that judge if none are named."""

TABLE, SUMMARY, PAGE, CIFS = "judged.csv", "judged.json", "index.html", "cif"
"""Files of a folder of judged crystals; `CIFS` has a folder of relaxed structures for each potential."""

SAME_ATOMS = 1e-3
"""Largest displacement [Å] of atoms that translations of the cell map to each other, to find the primitive cell."""


@dataclass(frozen=True)
class Judgement:
    """What several potentials say of crystals.

    Attributes:
        frame: one row for each crystal, see `crystalgfn.judging.verdict.judge_crystals`.
        summary: counts with shares and intervals, see `crystalgfn.judging.verdict.summarize`, and ``about``.
        structures: for each crystal with a structure, by its name: the structure as given, under `GIVEN`, and the
            relaxed ones, under the names of the potentials.
    """

    frame: pd.DataFrame
    summary: dict[str, Any]
    structures: Mapping[str, Mapping[str, Structure]]

    def __len__(self) -> int:
        return len(self.frame)

    def to_frame(self) -> pd.DataFrame:
        """One row for each crystal, including those that could not be relaxed."""
        return self.frame

    def write(self, out: Path) -> None:
        """Write table, summary, page and CIF files to a folder. Each file is replaced completely or not at all."""
        from crystalgfn.judging.page import render

        texts = _write_cifs(self, out)
        write_frame(self.frame, out / TABLE)
        page = render(self.summary, self.frame, texts)
        for name, text in ((SUMMARY, json.dumps(self.summary, indent=1, ensure_ascii=False) + "\n"), (PAGE, page)):
            with atomic_path(out / name) as temporary:
                temporary.write_text(text, encoding="utf-8")


def judge(
    crystals: Path | str | Sequence[Structure] | Sequence[Given],
    potentials: Sequence[str] = POTENTIALS,
    *,
    reference: Path | str | None = None,
    hull: Path | str | ConvexHull | ReferenceHull | None = None,
    element_references: Sequence[Path] = (),
    out: Path | str | None = None,
    seed: int = 0,
    jobs: int = 1,
    backend: str = "loky",
    scheduler: str | None = None,
    timeout: float = 600.0,
    source: str = "",
) -> Judgement:
    """Relax crystals with several potentials, place them on the hull, and compare them with known crystals.

    Args:
        crystals: a file or folder, see `crystalgfn.judging.sources.read_given`; or structures.
        potentials: names of the potentials, see `crystalgfn.atoms.potentials.make`.
        reference: known crystals with atoms, see `crystalgfn.judging.known.Reference`; None leaves out what needs them.
        hull: the hull of known phases, or its file, see `crystalgfn.proxies.hull.open_hull`; None for the shipped one.
        element_references: files of elemental references that replace those that come with a potential.
        out: folder for the results; the same call continues a stopped run. None writes nothing.
        seed: seed of the small displacements before relaxations without symmetry.
        jobs: number of relaxations at the same time, each in a process of its own.
        backend: ``loky`` for this machine; ``dask`` or ``ray`` for a cluster.
        scheduler: address of the cluster; None starts a local one.
        timeout: time limit for each relaxation [s].
        source: where the crystals come from, for the page; None for the path.

    Returns:
        the judgement, which is written to ``out`` as well.

    Raises:
        InputError: if a package is missing, a setting is not allowed, or a file or folder cannot be used.
    """
    require_extra()
    workers = Workers(jobs, backend, scheduler, timeout)
    workers.check()
    if not potentials:
        raise InputError("potential: name at least one")
    judges = _judges(potentials, element_references)
    given = _given(crystals)
    check_names(given)
    known_hull = open_hull(hull or SHIPPED_HULL) if hull is None or isinstance(hull, str | Path) else hull
    known = Reference(Path(reference)) if reference is not None else None
    cells = [None if crystal.structure is None else _primitive(crystal.structure) for crystal in given]
    tasks = [[None if cell is None else _task(cell, one.potential, seed) for cell in cells] for one in judges]
    distinct = {task["id"]: task for crystal in zip(*tasks, strict=True) for task in crystal if task is not None}
    if out is not None:
        found = run(list(distinct.values()), {"command": "judge"}, Path(out), workers, FUNCTION, "judge")
    else:
        found = list(results(list(distinct.values()), workers, FUNCTION, "judge"))
    by_id = {result["id"]: result for result in found}
    relaxed = [[{} if task is None else by_id[task["id"]] for task in own] for own in tasks]
    frame = judge_crystals(given, relaxed, judges, known_hull, known)
    about = {
        "crystals": source or (str(crystals) if isinstance(crystals, str | Path) else f"{len(given)} structures"),
        "potentials": ", ".join(f"{one.potential.name} {one.potential.version}" for one in judges),
        "hull": "the shipped hull" if hull is None else str(hull) if isinstance(hull, str | Path) else "as given",
        "reference": f"{reference}: {len(known)} structures" if known is not None else "none",
        "seed": str(seed),
        "version": f"crystalgfn {__version__}",
    }
    summary = {"about": about, **summarize(frame, [one.potential.name for one in judges], known is not None)}
    judgement = Judgement(frame, summary, _structures(given, relaxed, judges))
    if out is not None:
        judgement.write(Path(out))
    return judgement


def _judges(potentials: Sequence[str], files: Sequence[Path]) -> list[Judge]:
    """The potentials with their references: those of a file that belongs to one, or those that come with it.

    Raises:
        InputError: if there are none, a file belongs to no potential, or a package is missing.
    """
    chosen = {potential.name: potential for potential in map(make, potentials)}
    own = {ElementReferences.potential_of(file): file for file in files}
    foreign = [name for name in own if name not in chosen]
    if foreign:
        raise InputError(
            f"--element-references: {own[foreign[0]]} is for {foreign[0]}, which does not judge; potentials: "
            f"{', '.join(chosen)}"
        )
    for potential in chosen.values():
        require_extra(potential.packages, potential.install)
    return [Judge(potential, ElementReferences.load(potential, own.get(name))) for name, potential in chosen.items()]


def _primitive(structure: Structure) -> dict[str, Any]:
    """The primitive cell as plain values; the given cell if spglib finds no symmetry."""
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

    try:
        primitive = SpacegroupAnalyzer(structure, symprec=SAME_ATOMS).find_primitive()
    except (SymmetryUndeterminedError, TypeError):  # spglib finds nothing if atoms coincide
        primitive = None
    return (structure if primitive is None else primitive).as_dict()


def _given(crystals: Path | str | Sequence[Structure] | Sequence[Given]) -> list[Given]:
    if isinstance(crystals, str | Path):
        return read_given(Path(crystals))
    if all(isinstance(crystal, Given) for crystal in crystals):
        return list(crystals)  # type: ignore[arg-type]
    return from_structures(crystals)  # type: ignore[arg-type]


def _task(cell: dict[str, Any], potential: Potential, seed: int) -> dict[str, Any]:
    """The task of `crystalgfn.judging.relaxing.relax`. Its id is a checksum of everything that the result depends on.

    So a folder may be used again for more crystals or with another potential, and no crystal is relaxed twice.
    """
    task = {"structure": cell, "seed": seed, "potential": potential.name}
    content = json.dumps([task, potential.version, versions(potential)], sort_keys=True)
    return task | {"id": sha256(content.encode()).hexdigest()[:24]}


def _structures(
    given: Sequence[Given], relaxed: Sequence[Sequence[Mapping[str, Any]]], judges: Sequence[Judge]
) -> dict[str, dict[str, Structure]]:
    from pymatgen.core import Structure

    found = {}
    for row, crystal in enumerate(given):
        if crystal.structure is None:
            continue
        found[crystal.id] = {GIVEN: crystal.structure} | {
            one.potential.name: Structure.from_dict(own[row]["structure_relaxed"])
            for one, own in zip(judges, relaxed, strict=True) if "structure_relaxed" in own[row]
        }  # fmt: skip
    return found


def _write_cifs(judgement: Judgement, out: Path) -> dict[str, dict[str, str]]:
    """Write all structures as CIF files; returns their texts by crystal and kind of structure."""
    texts: dict[str, dict[str, str]] = {}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".cif-") as name:
        fresh = Path(name) / CIFS
        for row, (crystal, kinds) in enumerate(judgement.structures.items(), start=1):
            texts[crystal] = {}
            for kind, structure in kinds.items():
                path = fresh / slug(kind) / f"{_file_name(crystal, row)}.cif"
                write_cif(structure, path, f"{crystal}, {kind}")
                texts[crystal][kind] = path.read_text()
        fresh.mkdir(exist_ok=True)
        shutil.rmtree(out / CIFS, ignore_errors=True)
        fresh.replace(out / CIFS)
    return texts


def _file_name(crystal: str, row: int) -> str:
    """The name of a crystal as the name of a file; a number if it cannot be one."""
    is_usable = crystal and not crystal.startswith(".") and all(c.isalnum() or c in "-_.+" for c in crystal)
    return crystal if is_usable and len(crystal) < 100 else f"crystal-{row:06d}"
