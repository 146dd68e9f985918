"""MatBench data sets as tables of crystals.

A MatBench file is JSON, compressed with gzip, with the keys ``index`` (ids), ``columns`` (``structure`` and the target)
and ``data`` (a list of pymatgen structures as dictionaries, each with its target). This is the layout that matminer's
``load_dataset`` reads. Here, files are read piece by piece, because the largest ones need many gigabytes as Python
objects.

Source: A. Dunn et al., npj Comput. Mater. 6, 138 (2020); addresses and checksums of the files from matminer.
"""

from __future__ import annotations

import gzip
import hashlib
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from crystalgfn.checks import between
from crystalgfn.crystal.crystallography.elements import N_ELEMENTS
from crystalgfn.crystal.crystals import LATTICE_PARAMETERS, Crystals
from crystalgfn.errors import InputError
from crystalgfn.files import atomic_path, check_writable, table_kind, write_frame

TARGETS = {
    "matbench_mp_e_form": "e_form",
    "matbench_mp_gap": "gap pbe",
    "matbench_mp_is_metal": "is_metal",
    "matbench_perovskites": "e_form",
    "matbench_log_gvrh": "log10(G_VRH)",
    "matbench_log_kvrh": "log10(K_VRH)",
    "matbench_dielectric": "n",
    "matbench_phonons": "last phdos peak",
    "matbench_jdft2d": "exfoliation_en",
}
"""MatBench data sets that contain structures, and the name of the target column of each."""

_BATCH = 256
"""Number of structures in memory at once, for each process."""

_INSTALL = "pip install 'crystalgfn[matbench]'"


@dataclass(frozen=True)
class ImportResult:
    """How many rows of a data set were read and left out.

    Attributes:
        rows: number of rows read.
        label: name of the table's column with the target.
        failures: number of rows left out, by reason, the most frequent reason first.
    """

    rows: int
    label: str
    failures: dict[str, int]


def import_matbench(
    name: str,
    out: Path,
    file: Path | None = None,
    symprec: float = 0.1,
    workers: int = 1,
    log: Callable[[str], None] = print,
) -> ImportResult:
    """Write a MatBench data set as a table of crystals, in the order of its rows.

    Columns: ``id``, the crystal (formula of the conventional standard cell, space_group, a, b, c [Å], alpha, beta,
    gamma [degrees]) and the target. The target's column has the name of the target, with ``_`` in place of characters
    other than letters and digits. A row whose structure or target cannot be used is left out and counted.

    Args:
        name: a key of `TARGETS`.
        out: table to write, CSV or parquet depending on its ending; an existing file is replaced.
        file: the data set's file (``.json.gz`` or ``.json``); None to download it to the folder of ``out``.
        symprec: tolerance of the symmetry search [Å].
        workers: number of processes for the symmetry search; the table does not depend on it.
        log: function that is called with each line of progress.

    Returns:
        how many rows were read and left out, and the name of the target's column.

    Raises:
        InputError: if the data set is unknown, ``symprec`` or ``workers`` is out of range, the file does not contain
            the data set, the output cannot be written, a package is missing, or no row can be used.
    """
    if name not in TARGETS:
        raise InputError(f"data set: {name!r} is not allowed; allowed: {', '.join(TARGETS)}")
    between("symprec", symprec, 0, 10, without=0)
    between("workers", workers, 1, 1024)
    table_kind(out)
    check_writable(out)
    path = download(name, out.parent, log) if file is None else file
    target = TARGETS[name]
    rows, failures, started = 0, Counter[str](), time.time()
    crystals: list[Crystals] = []
    ids: list[str] = []
    labels: list[float] = []
    with _pool(workers) as pool:
        for batch in _batches(read_rows(path, target), _BATCH * workers):
            jobs = [(structure, value, symprec) for _, structure, value in batch]
            results = pool.map(_convert, jobs, chunksize=16) if pool else map(_convert, jobs)
            for (row_id, _, value), result in zip(batch, results, strict=True):
                if isinstance(result, str):
                    failures[result] += 1
                else:
                    crystals.append(result)
                    ids.append(row_id)
                    labels.append(float(value))
            rows += len(batch)
            rate = rows / max(time.time() - started, 1e-3)
            log(f"{rows} rows: {len(crystals)} crystals, {rows - len(crystals)} left out, {rate:.0f} rows/s")
    if not crystals:
        raise InputError(f"{path}: no row can be used ({dict(failures) or 'there are none'})")
    label = "".join(c if c.isalnum() else "_" for c in target).strip("_")
    frame = Crystals.cat(crystals).to_frame()
    frame[list(LATTICE_PARAMETERS)] = frame[list(LATTICE_PARAMETERS)].round(6)
    frame.insert(0, "id", ids)
    frame[label] = labels
    write_frame(frame, out)
    return ImportResult(rows, label, dict(failures.most_common()))


def read_rows(path: Path, target: str) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Read the rows of a MatBench file one by one.

    Args:
        path: the file.
        target: name of the target column.

    Yields:
        id, structure as a dictionary, and target.

    Raises:
        InputError: if the file is missing, damaged, or has other columns.
    """
    ijson = _ijson()
    columns = next(_items(path, "columns", ijson), None)
    if not isinstance(columns, list) or "structure" not in columns or target not in columns:
        raise InputError(f"{path}: has the columns {columns}; needed: structure, {target}")
    structure, value = columns.index("structure"), columns.index(target)
    ids = list(_items(path, "index.item", ijson))
    number = -1
    for number, row in enumerate(_items(path, "data.item", ijson)):
        if number >= len(ids) or not isinstance(row, list) or len(row) != len(columns):
            raise InputError(f"{path}: row {number + 1} does not fit the index and the columns")
        yield str(ids[number]), row[structure], row[value]
    if number + 1 != len(ids):
        raise InputError(f"{path}: has {number + 1} rows and {len(ids)} ids")


def download(name: str, folder: Path, log: Callable[[str], None]) -> Path:
    """Download a data set's file, unless the folder already contains it, and compare its checksum with matminer's.

    Args:
        name: a key of `TARGETS`.
        folder: folder of the file.
        log: function that is called with each line of progress.

    Returns:
        the path of the file.

    Raises:
        InputError: if matminer is not installed, the file cannot be downloaded, or the checksum differs.
    """
    try:
        from matminer.datasets.dataset_retrieval import get_dataset_attribute
    except ImportError:
        raise InputError(
            f"downloading {name} needs matminer ({_INSTALL}); or give the file itself: --file {name}.json.gz"
        ) from None
    url, checksum = get_dataset_attribute(name, "url"), get_dataset_attribute(name, "hash")
    path = folder / f"{name}.json.gz"
    if not path.is_file():
        log(f"downloading {url}")
        try:
            with urlopen(url, timeout=60) as source, atomic_path(path) as temporary, temporary.open("wb") as target:
                while block := source.read(1 << 20):
                    target.write(block)
        except OSError as error:
            raise InputError(f"{url}: cannot be downloaded: {error}; fetch it yourself and use --file") from None
    with path.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != checksum:
        raise InputError(f"{path}: the checksum is {found}, not {checksum}; delete the file and try again")
    return path


def _items(path: Path, prefix: str, ijson: Any) -> Iterator[Any]:
    """Read the items under a prefix of a JSON file one by one."""
    if not path.is_file():
        raise InputError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as content:
            yield from ijson.items(content, prefix, use_float=True)
    except (ijson.JSONError, EOFError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: cannot be read as MatBench JSON: {type(error).__name__}: {reason}") from None


def _ijson() -> Any:
    try:
        import ijson
    except ImportError:
        raise InputError(f"reading MatBench files needs ijson ({_INSTALL})") from None
    return ijson


def _batches(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(islice(rows, size)):
        yield batch


def _pool(workers: int) -> Any:
    """Context with a pool of processes, or with None for one worker."""
    if workers == 1:
        return nullcontext()
    from multiprocessing import get_context

    return get_context("spawn").Pool(workers)


def _convert(job: tuple[dict[str, Any], Any, float]) -> Crystals | str:
    """The crystal of a structure, or the reason why the row cannot be used."""
    from pymatgen.core import Structure

    content, value, symprec = job
    if not isinstance(value, int | float) or not -1e300 < value < 1e300:
        return "the target is missing or not a number"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structure = Structure.from_dict(content)
            if not structure.is_ordered:
                return "the structure is disordered"
            if max(atom.specie.Z for atom in structure) > N_ELEMENTS:
                return f"an element beyond Z = {N_ELEMENTS}"
            return Crystals.from_structures([structure], symprec)
    except Exception as error:  # pymatgen and spglib raise many types for unusual structures
        return f"the structure cannot be converted: {type(error).__name__}"
