"""Make crystals of one space with several generators, and judge all of them with ``crystalgfn judge``.

    python benchmarks/baselines.py --space 22 --out DIR --reference TABLE --structures STRUCTURES [--only NAME ...]
        [--n 100] [--seed 0] [--jobs 2] [--potential chgnet --potential sevennet:7net-0]

TABLE has the columns of `crystalgfn.crystal.tables`, material_id and energy_above_hull [eV/atom]. STRUCTURES has
material_id and cif. Spaces are in benchmarks/baselines.yaml. The generators:

- ``model`` and ``prior``: samples of trained models. Atoms are placed as ``crystalgfn build --tries 4`` does it.
- ``uniform``: every decision of the environment is uniformly random among what is legal. Atoms are placed in the same
  way.
- ``ion exchange``: a known crystal of the space on the hull of TABLE (energy_above_hull at most 0, any split),
  uniformly drawn, in which one element, uniformly drawn, is replaced by another element of the space that is not in the
  crystal and has the same common oxidation state. It is drawn in proportion to the probability that the two ions
  replace each other in known crystals (pymatgen's SubstitutionProbability; Hautier et al., Inorg. Chem. 50, 656, 2011),
  because an exchange that ignores chemistry would be a baseline that cannot win. The crystal is neutral with common
  oxidation states, also in a space without a rule for charges. Draws whose reduced formula is in TABLE are rejected and
  drawn again. The volume is that of pymatgen's RLSVolumePredictor with atomic radii: for 201 random pairs of known
  crystals that differ by one exchange, 74 % of its volumes are within 10 %, of those of DLSVolumePredictor 49 %. Where
  pymatgen has no radius of an element (xenon), the parent's volume is scaled by the sum of the cubed atomic radii.
- ``random sites``: composition of the conventional cell and space group of a known crystal of the space, uniformly
  drawn, with atoms on random Wyckoff positions by pyxtal, in pyxtal's random cell. No energy is looked at. A crystal
  for which pyxtal fails or needs more than a minute of processor time counts as failed.

A crystal is in the space if the environment can build it: elements, numbers of atoms, space group, charges and cell.

Results are in DIR/SPACE/GENERATOR: structures.parquet with one row a sample, judged/ with what judge wrote, and for
models samples.csv, sampling.json and built/. A step whose result exists is skipped, so you can run a stopped command
again. A larger --n adds samples and changes none.

The command prints a Markdown table, a row for each measure and a column for each generator. Processor time of making
includes placing the atoms and, for models, ``crystalgfn predict`` with loading; not the time to load the potential, the
environment of ``uniform`` or the tables of known crystals.

Results: docs/results/judging.md.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import resource
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml

from crystalgfn.crystal.formulas import formula_text, parse_formula, reduced
from crystalgfn.errors import InputError
from crystalgfn.files import atomic_path, checksum, read_frame, write_frame

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from crystalgfn.crystal.envs.crystal import Crystal

SPACES = Path(__file__).with_suffix(".yaml")
GENERATED = ("uniform", "ion exchange", "random sites")
"""Generators of every space, besides its models."""

POTENTIALS = ["chgnet", "sevennet:7net-0"]
TABLE = "structures.parquet"
TOLERANCE = 0.01
"""Largest relative deviation of a known cell from the shape of its lattice system."""

ON_HULL = 0.0  # eV/atom
PYXTAL_SECONDS = 60.0
MAX_DRAWS = 10_000
"""Draws of one ion exchange before it is given up: there is probably no new formula."""

SAVE_EVERY = 50


@dataclass(frozen=True)
class Space:
    """A space of crystals, and what is known in it.

    Attributes:
        env: the environment.
        settings: its settings.
        parents: known crystals that the environment can build: material_id, formula of the conventional cell,
            space_group, energy_above_hull [eV/atom] and cif.
        known: reduced formulas of all known crystals, whether they are in the space or not.
    """

    env: Crystal
    settings: Mapping[str, Any]
    parents: pd.DataFrame
    known: frozenset[frozenset[tuple[str, int]]]


def main(arguments: Sequence[str] | None = None) -> None:
    plan = yaml.safe_load(SPACES.read_text())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=plan["spaces"], required=True, help="space of benchmarks/baselines.yaml")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--reference", type=Path, required=True, help="table of known crystals")
    parser.add_argument("--structures", type=Path, required=True, help="table of their structures")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names of generators (default: all)")
    parser.add_argument("--n", type=int, default=100, help="samples of each generator (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices (default 0)")
    parser.add_argument("--jobs", type=int, default=2, help="crystals at the same time (default 2)")
    parser.add_argument(
        "--potential", action="append", help=f"potential that judges (default: {' and '.join(POTENTIALS)})"
    )
    options = parser.parse_args(arguments)
    for name, least in (("n", 1), ("seed", 0), ("jobs", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name}: {getattr(options, name)} is not allowed; it must be at least {least}")
    try:
        columns = benchmark(plan, options)
    except InputError as error:
        sys.exit(str(error))
    print(table(columns))


def benchmark(plan: Mapping[str, Any], options: argparse.Namespace) -> dict[str, tuple[dict[str, Any], float]]:
    """Make and judge the crystals of each generator.

    Returns:
        for each generator what judge wrote to judged.json, and the processor time of sampling a model [s].
    """
    of_space = plan["spaces"][options.space]
    names = [*of_space["models"], *GENERATED]
    unknown = [name for name in options.only or [] if name not in names]
    if unknown:
        raise InputError(f"--only: {', '.join(unknown)} not in space {options.space}; it has: {', '.join(names)}")
    space = read_space(Path(of_space["config"]), options.reference, options.structures)
    common = {
        "environment": space.settings, "seed": options.seed, "tries": plan["tries"],
        "reference": checksum(options.reference), "structures": checksum(options.structures),
    }  # fmt: skip
    folders = {name: options.out / options.space / slug(name) for name in options.only or names}
    for name, folder in folders.items():
        model = of_space["models"].get(name)
        begin(folder, common | model_settings(model))
        if len(rows_of(folder / TABLE)) < options.n:
            make(space, folder, name, model, plan, options.n, options.seed, options.jobs)
    hull = of_space.get("hull")
    hull = options.reference if hull == "$REFERENCE" else hull
    found = {}
    for name, folder in folders.items():
        judged = judge(folder, options.n, options.potential or POTENTIALS, options.structures, hull, options.jobs)
        found[name] = judged, options.n * seconds_a_sample(folder)
    return found


def slug(name: str) -> str:
    """The name of a generator as the name of a folder."""
    return re.sub(r"\W+", "_", name).strip("_")


def read_space(config: Path, reference: Path, structures: Path) -> Space:
    """Read an environment, and the known crystals that it can build.

    Raises:
        InputError: if a file cannot be used, or no known crystal is in the space.
    """
    from crystalgfn.gflownet.data_set import read_states
    from crystalgfn.gflownet.envs import Environment
    from crystalgfn.settings import find_config, instantiate, read_config

    content = read_config(find_config(str(config)))
    settings = content.get("fit", content)["model"]["env"]  # configs of discover have the model under this key
    env = instantiate({"env": settings}, {"env": Environment}, f"config: {config}").env
    read_frame(reference, ["material_id", "energy_above_hull"])
    states = read_states(env, reference, TOLERANCE, None, "--reference")
    cells = read_frame(structures, ["material_id", "cif"])
    frame = states.frame.iloc[states.rows.tolist()]
    frame = frame.assign(
        space_group=pd.to_numeric(frame["space_group"]),
        energy_above_hull=pd.to_numeric(frame["energy_above_hull"], errors="coerce"),
    )[["material_id", "formula", "space_group", "energy_above_hull"]]
    parents = frame.merge(cells[["material_id", "cif"]], on="material_id").reset_index(drop=True)
    if parents.empty:
        raise InputError(f"--reference: no crystal of {reference} with a structure in {structures} is in the space")
    return Space(env, settings["init_args"], parents, known_formulas(states.frame["formula"]))


def known_formulas(formulas: Sequence[str] | pd.Series[str]) -> frozenset[frozenset[tuple[str, int]]]:
    """Reduced formulas of a column of formulas; entries that are no formulas are left out."""
    found = set()
    for formula in set(formulas):
        try:
            found.add(formula_key(parse_formula(formula)))
        except (InputError, AttributeError):
            continue
    return frozenset(found)


def formula_key(counts: Mapping[str, int]) -> frozenset[tuple[str, int]]:
    """The reduced formula of a composition, whatever the order of its elements."""
    return frozenset(reduced(counts).items())


def begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder of a generator, or check that it was begun with the same settings.

    Raises:
        InputError: if it was begun with other settings.
    """
    path = folder / "settings.json"
    text = json.dumps(settings, indent=1, default=list) + "\n"
    if path.is_file() and path.read_text() != text:
        raise InputError(f"--out: {folder} was begun with other settings, see {path}; use another folder")
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def model_settings(model: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings of a generator that is a model, with the checksum of its checkpoint; none for other generators."""
    from crystalgfn.gflownet.checkpoint_files import find_checkpoint

    return {} if model is None else {**model, "weights": checksum(find_checkpoint(model["checkpoint"]))}


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a table; none if it does not exist."""
    rows: list[dict[str, Any]] = read_frame(path).to_dict("records") if path.is_file() else []  # type: ignore[assignment]
    return rows


def make(
    space: Space,
    folder: Path,
    name: str,
    model: Mapping[str, Any] | None,
    plan: Mapping[str, Any],
    n: int,
    seed: int,
    jobs: int,
) -> None:
    """Make the structures of a generator up to number n; the plan has ``tries``."""
    if name == "ion exchange":
        parents = exchangeable(space)
        extend(folder / TABLE, n, lambda i: ion_exchange(space, parents, seed, i))
        write_counts(folder, len(parents))
    elif name == "random sites":
        extend(folder / TABLE, n, lambda i: random_sites(space.parents, seed, i))
    else:
        samples = folder / "samples.csv"
        if model is None:
            sample_uniformly(space.env, samples, n, seed)
        else:
            sample_model(model, space.settings, samples, n, seed)
        write_frame(pd.DataFrame(place(samples, folder / "built", n, plan["tries"], seed, jobs)), folder / TABLE)


def extend(path: Path, n: int, one: Callable[[int], dict[str, Any]]) -> None:
    """Add rows to a table until it has n; row i depends on i alone. A stopped run loses at most `SAVE_EVERY` rows."""
    rows = rows_of(path)
    for i in range(len(rows), n):
        rows.append(one(i))
        if len(rows) % SAVE_EVERY == 0 or len(rows) == n:
            write_frame(pd.DataFrame(rows), path)


def stream(seed: int, name: str, i: int) -> np.random.Generator:
    """The random stream of one sample of one generator."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), i])


def row_name(i: int) -> str:
    """Name of sample i, counted from 0."""
    return f"row-{i + 1:06d}"


# Models and the uniform policy: samples without atoms, in which crystalgfn build places atoms


def sample_model(model: Mapping[str, Any], settings: Mapping[str, Any], samples: Path, n: int, seed: int) -> None:
    """Sample a trained model with ``crystalgfn predict``, unless there are enough samples.

    Args:
        model: ``checkpoint``; ``restrict`` if samples must be restricted to the space.
        settings: settings of the environment of the space.
        samples: table to write. Its processor time [s] is written to sampling.json beside it.
        n: number of samples.
        seed: random seed.

    Raises:
        InputError: if the first samples are not those that exist.
    """
    before = samples.read_text().splitlines() if samples.is_file() else []
    if len(before) > n:
        return
    words: list[Any] = []
    if model.get("restrict"):
        restriction = samples.with_name("restrict.yaml")
        restriction.write_text(yaml.safe_dump(restriction_to(settings), sort_keys=False))
        words = ["--data.restrict", restriction]
    fresh = samples.with_name("fresh.csv")
    spent = children_seconds()
    run(
        "predict", "--ckpt_path", model["checkpoint"], *words, "--data.num_samples", n, "--data.seed", seed,
        "--data.out", fresh,
    )  # fmt: skip
    spent = children_seconds() - spent
    if fresh.read_text().splitlines()[: len(before)] != before:
        raise InputError(f"{samples}: the first of {n} samples are others than before; use another --out")
    write_seconds(samples.parent, n, spent)
    fresh.replace(samples)


def restriction_to(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The restriction of a larger model to the space of an environment's settings."""
    from dataclasses import fields

    from crystalgfn.crystal.restriction import Restriction

    names = {field.name for field in fields(Restriction)}
    if not settings.get("charge_neutral"):
        names -= {"charge_neutral", "oxidation_states", "mixed_valence"}
    return {name: value for name, value in settings.items() if name in names and value is not None}


def sample_uniformly(env: Crystal, samples: Path, n: int, seed: int) -> None:
    """Sample the policy that is uniform at each decision, until a table has n crystals."""
    import torch

    from crystalgfn.gflownet.policies.random_policy import RandomPolicy
    from crystalgfn.gflownet.rollout import sample_forward
    from crystalgfn.random import generator

    rows = rows_of(samples)
    if len(rows) >= n:
        return
    policy, spent = RandomPolicy(env, scale=0.0), len(rows) * seconds_a_sample(samples.parent)
    start = time.process_time()
    # With epsilon = 1, every decision is uniform among what is legal, that of a lattice parameter too.
    states = [
        sample_forward(env, policy, 1, generator(seed, "uniform", i), epsilon=1.0)[0].states
        for i in range(len(rows), n)
    ]
    added = env.to_frame(torch.cat(states)).astype(str)
    write_seconds(samples.parent, n, spent + time.process_time() - start)
    write_frame(pd.concat([pd.DataFrame(rows), added]), samples)


def write_seconds(folder: Path, n: int, seconds: float) -> None:
    """Write the processor time of sampling n crystals [s] to the folder of their generator."""
    with atomic_path(folder / "sampling.json") as temporary:
        temporary.write_text(json.dumps({"samples": n, "cpu_seconds": seconds}) + "\n")


def seconds_a_sample(folder: Path) -> float:
    """Processor time of sampling one crystal [s], as written by `write_seconds`; 0 if nothing is sampled."""
    path = folder / "sampling.json"
    if not path.is_file():
        return 0.0
    content = json.loads(path.read_text())
    return float(content["cpu_seconds"] / content["samples"])


def place(samples: Path, out: Path, n: int, tries: int, seed: int, jobs: int) -> list[dict[str, Any]]:
    """Place atoms in the first n samples as ``crystalgfn build --tries TRIES`` does it.

    The command itself refuses a folder if the table has grown since; here more samples may be added.

    Args:
        samples: table of samples.
        out: folder for the results.
        n: number of samples.
        tries: arrangements that are relaxed in the sampled cell.
        seed: seed of the arrangements.
        jobs: crystals at the same time.

    Returns:
        one row for each sample.
    """
    from pymatgen.core import Structure

    from crystalgfn.atoms.potentials import DEFAULT
    from crystalgfn.atoms.potentials import make as potential
    from crystalgfn.atoms.run import Workers
    from crystalgfn.atoms.run import run as build
    from crystalgfn.atoms.tables import plain_crystals, versions
    from crystalgfn.crystal.tables import read_table

    settings = {"tries": tries, "seed": seed, "relax": False, "potential": potential(DEFAULT).name}
    crystals = read_table(samples).crystals[:n]
    tasks = [crystal | {"id": row_name(i)} | settings for i, crystal in enumerate(plain_crystals(crystals))]
    results = build(tasks, settings | versions(potential(DEFAULT)), out, Workers(jobs))
    rows = []
    for task, result in zip(tasks, results, strict=True):
        content = result.get("structure_built")
        # The time of a crystal that was given up is its time limit.
        seconds = float(result["cpu_seconds"] if "cpu_seconds" in result else result["gave_up_after"])
        structure = None if content is None else Structure.from_dict(content)
        rows.append(sample_row(task["id"], task["counts"], task["space_group"], structure, seconds, result["reason"]))
    return rows


def sample_row(
    name: str, counts: Mapping[str, int], group: int, structure: Structure | None, seconds: float, reason: str = ""
) -> dict[str, Any]:
    """One row of structures.parquet: the columns that every generator has.

    Args:
        name: name of the sample.
        counts: atoms of each element in the conventional cell.
        group: the space group that the generator meant.
        structure: the structure; None if there is none.
        seconds: processor time to make it [s].
        reason: why there is no structure.
    """
    from pymatgen.io.cif import CifWriter

    return {
        "id": name,
        "formula": formula_text(counts),
        "space_group": int(group),
        "cif": "" if structure is None else str(CifWriter(structure)),
        "cpu_seconds": seconds,
        "reason": reason,
    }


# Ion exchange


def exchangeable(space: Space) -> list[Parent]:
    """The known crystals of a space on the hull that are neutral with common oxidation states.

    Raises:
        InputError: if there are none.
    """
    env = space.env if space.env.charge_neutral else space.env.restricted({"charge_neutral": True})
    parents = []
    on_hull = space.parents[space.parents["energy_above_hull"] <= ON_HULL]
    for row in on_hull.to_dict("records"):
        counts = parse_formula(row["formula"])
        assignment = env.composition.assignment(counts)
        if assignment is None:
            continue
        states: dict[str, set[int]] = {symbol: set() for symbol in counts}
        for symbol, state, _ in assignment:
            states[symbol].add(state)
        parents.append(Parent(str(row["material_id"]), counts, int(row["space_group"]), row["cif"], states))
    if not parents:
        raise InputError("--reference: no neutral crystal of the space is on the hull, so there is no ion exchange")
    return parents


@dataclass(frozen=True)
class Parent:
    """A known crystal in which ions can be exchanged.

    Attributes:
        name: its material_id.
        counts: atoms of each element in the conventional cell.
        group: number of its space group.
        cif: its structure.
        states: oxidation states of each element in a neutral assignment.
    """

    name: str
    counts: dict[str, int]
    group: int
    cif: str
    states: dict[str, set[int]]


def ion_exchange(space: Space, parents: Sequence[Parent], seed: int, i: int) -> dict[str, Any]:
    """Sample i of the ion exchange; see the top of this file.

    Args:
        space: the space.
        parents: what `exchangeable` returned for it.
        seed: random seed.
        i: number of the sample.

    Returns:
        the columns of `sample_row`, ``parent`` (material_id), ``from`` and ``to`` (elements), ``oxidation_state``,
        ``volume`` (how it was predicted), and the numbers of rejected draws: ``no_partner``, if no other element of the
        space has the oxidation state, and ``known_formula``, if the reduced formula is known.

    Raises:
        InputError: if `MAX_DRAWS` draws are rejected.
    """
    from pymatgen.analysis.structure_prediction import volume_predictor  # noqa: F401  so that no sample pays for it
    from pymatgen.core import Structure

    from crystalgfn.atoms.potentials.quiet import silence
    from crystalgfn.crystal.crystallography import oxidation_state_set

    substitutions()  # so that no sample pays for it
    common = oxidation_state_set(space.settings["oxidation_states"])
    start = time.process_time()
    random, rejected = stream(seed, "ion exchange", i), Counter[str]()
    while rejected.total() < MAX_DRAWS:
        parent = parents[int(random.integers(len(parents)))]
        old = sorted(parent.counts)[int(random.integers(len(parent.counts)))]
        others = [
            symbol for symbol in space.env.elements
            if symbol not in parent.counts and parent.states[old] <= set(common[symbol])
        ]  # fmt: skip
        if not others:
            rejected["no_partner"] += 1
            continue
        weights = np.array([replaces(parent.states[old], old, symbol) for symbol in others])
        new = others[int(random.choice(len(others), p=weights / weights.sum()))]
        counts = {new if symbol == old else symbol: count for symbol, count in parent.counts.items()}
        if formula_key(counts) in space.known:
            rejected["known_formula"] += 1
            continue
        with silence():
            known = Structure.from_str(parent.cif, fmt="cif")
            known.remove_oxidation_states()
            structure, volume = exchanged(known, old, new)
        row = sample_row(row_name(i), counts, parent.group, structure, 0.0)
        states = " ".join(map(str, sorted(parent.states[old])))
        return row | {
            "parent": parent.name, "from": old, "to": new, "oxidation_state": states, "volume": volume,
            "no_partner": rejected["no_partner"], "known_formula": rejected["known_formula"],
            "cpu_seconds": time.process_time() - start,
        }  # fmt: skip
    raise InputError(f"ion exchange: {MAX_DRAWS} draws gave no new formula; rejected: {dict(rejected)}")


@cache
def substitutions() -> Any:
    """Probabilities that two ions replace each other in known crystals."""
    from pymatgen.analysis.structure_prediction.substitution_probability import SubstitutionProbability

    return SubstitutionProbability()


def replaces(states: Iterable[int], old: str, new: str) -> float:
    """Probability that ions of an element in all of its oxidation states are replaced by those of another element."""
    from pymatgen.core import Species

    return math.prod(substitutions().prob(Species(old, state), Species(new, state)) for state in states)


def exchanged(known: Structure, old: str, new: str) -> tuple[Structure, str]:
    """A structure with one element replaced by another, with a predicted volume.

    Args:
        known: the structure.
        old: element that is replaced.
        new: element that replaces it.

    Returns:
        the structure, and what predicted its volume: ``RLS`` or ``radii``.
    """
    from pymatgen.analysis.structure_prediction.volume_predictor import RLSVolumePredictor
    from pymatgen.core import Element

    structure = known.copy()
    structure.replace_species({old: new})
    if all(Element(symbol).atomic_radius for symbol in structure.symbol_set):
        structure.scale_lattice(
            RLSVolumePredictor(check_isostructural=False, radii_type="atomic").predict(structure, known)
        )
        return structure, "RLS"
    structure.scale_lattice(known.volume * _cubed_radii(structure) / _cubed_radii(known))
    return structure, "radii"


def _cubed_radii(structure: Structure) -> float:
    """Sum over the atoms of the cubed atomic radius [Å³], or of the calculated one if there is no other."""
    return sum(float(site.specie.atomic_radius or site.specie.atomic_radius_calculated) ** 3 for site in structure)


def write_counts(folder: Path, parents: int) -> None:
    """Write the numbers of parents, draws and rejected draws to making.json."""
    frame = read_frame(folder / TABLE)
    rejected = {name: int(frame[name].sum()) for name in ("no_partner", "known_formula")}
    draws = len(frame) + sum(rejected.values())
    counts = {"parents": parents, "samples": len(frame), "draws": draws, "rejected": rejected}
    with atomic_path(folder / "making.json") as temporary:
        temporary.write_text(json.dumps(counts, indent=1) + "\n")


# Random sites


def random_sites(parents: pd.DataFrame, seed: int, i: int) -> dict[str, Any]:
    """Sample i of the random Wyckoff positions; see the top of this file.

    Args:
        parents: known crystals with material_id, formula of the conventional cell and space_group.
        seed: random seed.
        i: number of the sample.

    Returns:
        the columns of `sample_row`, and ``parent`` (material_id).
    """
    from pyxtal import pyxtal

    from crystalgfn.atoms.potentials.quiet import silence

    start = time.process_time()
    random = stream(seed, "random sites", i)
    parent = parents.iloc[int(random.integers(len(parents)))]
    counts, group = parse_formula(parent["formula"]), int(parent["space_group"])
    structure, reason = None, ""
    try:
        with silence(), processor_limit(PYXTAL_SECONDS):
            crystal = pyxtal()
            # pyxtal would begin every attempt with the same random numbers if it got a seed instead of a generator.
            crystal.from_random(3, group, list(counts), list(counts.values()), random_state=random)
            structure = crystal.to_pymatgen()
    except TimeoutError:
        reason = f"pyxtal needs more than {PYXTAL_SECONDS:g} s of processor time"
    except Exception as error:  # pyxtal raises many types
        reason = f"pyxtal: {type(error).__name__}: {' '.join(str(error).split())}"
    row = sample_row(row_name(i), counts, group, structure, 0.0, reason)
    return row | {"parent": parent["material_id"], "cpu_seconds": time.process_time() - start}


@contextmanager
def processor_limit(seconds: float) -> Iterator[None]:
    """Raise a TimeoutError when the block needs more processor time. Only in the main thread."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, stop)
    # The signal comes again after a second, in case the block's own code has caught the error.
    signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


# Judging


def judge(
    folder: Path, n: int, potentials: Sequence[str], structures: Path, hull: Path | str | None, jobs: int
) -> dict[str, Any]:
    """Judge the first n structures of a generator, unless it is done; returns the content of judged.json."""
    from crystalgfn.atoms.potentials import make as potential

    out = folder / "judged"
    names = [potential(name).name for name in potentials]
    judged = read_judged(out)
    if judged is None or (judged["crystals"], judged["potentials"]) != (n, names):
        words: list[Any] = [word for name in potentials for word in ("--potential", name)]
        words += ["--n", n, "--reference", structures, "--out", out, "--jobs", jobs]
        run("judge", folder / TABLE, *words, *([] if hull is None else ["--hull", hull]))
        judged = read_judged(out)
        if judged is None:
            raise InputError(f"{out}: judge wrote no judged.json")
    return judged


def read_judged(folder: Path) -> dict[str, Any] | None:
    """The content of judged.json; None if there is no such file."""
    path = folder / "judged.json"
    return json.loads(path.read_text()) if path.is_file() else None


def run(*words: Any) -> None:
    """Run a command of crystalgfn."""
    print("crystalgfn", *words, file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", "crystalgfn", *map(str, words)], check=False, stdout=sys.stderr)
    if done.returncode:
        sys.exit(f"crystalgfn {words[0]} ended with status {done.returncode}")


def children_seconds() -> float:
    """Processor time of all commands that have ended [s]."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


# The table


def table(columns: Mapping[str, tuple[Mapping[str, Any], float]]) -> str:
    """A Markdown table with a row for each measure and a column for each generator.

    Args:
        columns: for each generator the content of judged.json, and the processor time of sampling a model [s].
    """
    described = {name: measures(*column) for name, column in columns.items()}
    # Generators judged by the same potentials at the same thresholds have the same measures.
    rows = list(dict.fromkeys(measure for column in described.values() for measure in column))
    lines = [f"| | {' | '.join(described)} |", "|---|" + "--:|" * len(described)]
    lines += [f"| {row} | {' | '.join(column.get(row, '–') for column in described.values())} |" for row in rows]
    return "\n".join(lines)


def measures(judged: Mapping[str, Any], sampling: float) -> dict[str, str]:
    """The measures of one generator, as text; energies are in eV/atom, and intervals are 95 % intervals of Wilson."""
    from crystalgfn.judging.summary import share

    survival, novelty, apart = (judged[key] for key in ("survival", "novelty", "apart"))
    rows = {"crystals": str(judged["crystals"]), "failed": str(sum(judged["failed"].values()))}
    for threshold, found in survival.items():
        for name in judged["potentials"]:
            rows[f"at most {threshold} above the hull by {name}"] = share(found[name])
        rows[f"at most {threshold} above the hull by all"] = share(found["all"])
        rows[f"of these without doubt, at {threshold}"] = share(found["sound"])
        rows[f"of these on the hull of all crystals together, at {threshold}"] = share(found["together"])
        rows[f"of these with group and volume kept, at {threshold}"] = share(found["faithful"])
    for threshold in ("0.08", "0.1"):
        rows[f"S.U.N. at {threshold}"] = share(survival[threshold]["sun"])
        rows[f"S.S.U.N. at {threshold}"] = share(survival[threshold]["ssun"])
    rows["unique"], rows["novel"] = share(novelty["unique"]), share(novelty["novel"])
    rows["new prototypes"] = share(novelty["new_prototype"])
    rows["with molecules"], rows["collapsed"] = share(apart["molecules"]), share(apart["collapsed"])
    rows["no competing compound"], rows["far below the hull"] = share(apart["no_competitor"]), share(apart["far_below"])
    displacement = judged["displacement"]
    rows["displacement, median [Å]"] = "–" if displacement is None else f"{displacement:.2f}"
    seconds = (judged["cpu_seconds"]["making"] or 0.0) + sampling
    survivors = survival["0.1"]["all"]["count"]
    rows["making a sample, processor time [s]"] = f"{seconds / judged['crystals']:.2f}"
    rows["making a survivor by all at 0.1, processor time [s]"] = f"{seconds / survivors:.2f}" if survivors else "–"
    return rows


if __name__ == "__main__":
    main()
