"""Readers of what users write, on input that nobody thought of: an answer or an InputError, never anything else."""

import math
import string
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crystalgfn.crystal.crystals import LATTICE_PARAMETERS
from crystalgfn.crystal.formulas import formula_text, parse_formula
from crystalgfn.crystal.restriction import Restriction
from crystalgfn.crystal.tables import CRYSTAL_COLUMNS, read_table
from crystalgfn.errors import InputError
from crystalgfn.files import read_plain, write_plain
from crystalgfn.gflownet.checkpoint_files import read_checkpoint
from crystalgfn.runs.model import read_restriction


def attempt(call, *arguments):
    """What a reader returns, and what it says if it refuses."""
    try:
        return call(*arguments), None
    except InputError as error:
        return None, str(error)


bounded = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

SYMBOLS = ["Na", "Cl", "Fe", "O", "H", "Xx", "Am", "na", "NO", "é"]
formulas = st.one_of(
    st.text(max_size=12),
    st.lists(st.tuples(st.sampled_from(SYMBOLS), st.integers(-3, 10**6)), max_size=4).map(
        lambda pairs: " ".join(f"{symbol}{count}" for symbol, count in pairs)
    ),
)
numbers = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True).map(str),
    st.integers(-300, 300).map(str),
    st.sampled_from(["", "NA", "1e400", "-0", "0x10", "1,5", "١", "90", "120", "5.0"]),
    st.text(string.printable, max_size=6),
)
rows = st.tuples(formulas, *[numbers] * (len(CRYSTAL_COLUMNS) - 1))


@bounded
@given(st.lists(rows, min_size=1, max_size=5), st.booleans())
def test_tables(tmp_path, content, is_parquet):
    frame = pd.DataFrame(content, columns=list(CRYSTAL_COLUMNS))
    path = tmp_path / ("table.parquet" if is_parquet else "table.csv")
    frame.to_parquet(path) if is_parquet else frame.to_csv(path, index=False)
    table, _ = attempt(lambda: read_table(path, strict=False))
    if table is None:
        return
    # What is read is a crystal; what is not has a reason.
    crystals, rows = table.crystals, table.rows.tolist()
    assert sorted(rows) == [row for row, problem in enumerate(table.problems) if problem is None]
    assert ((crystals.space_group >= 1) & (crystals.space_group <= 230)).all()
    assert crystals.lattice.isfinite().all() and (crystals.lattice > 0).all()
    assert (crystals.counts.sum(1) > 0).all()
    for row, lattice in zip(rows, crystals.lattice.tolist(), strict=True):
        given_values = [float(table.frame[name].iloc[row]) for name in LATTICE_PARAMETERS]
        assert given_values == pytest.approx(lattice)
    if len(rows) < len(table.problems):
        with pytest.raises(InputError, match=r"row \d+ .*allowed: "):
            read_table(path)


@bounded
@given(st.binary(max_size=200), st.sampled_from([".csv", ".parquet"]))
def test_tables_of_any_bytes(tmp_path, content, suffix):
    path = tmp_path / f"table{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=str(path)):
        read_table(path)


@bounded
@given(formulas)
def test_formulas(text):
    counts, _ = attempt(parse_formula, text)
    if counts is not None:
        assert counts and all(count >= 1 for count in counts.values())
        assert parse_formula(formula_text(counts), once=True) == counts


words = st.one_of(st.sampled_from([*SYMBOLS, "cubic", "225", "195-206", "230-1", "Li-O", "m-3m"]), st.text(max_size=8))
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), words)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=2))
FIELDS = list(Restriction.__dataclass_fields__)


@settings(bounded, max_examples=200)
@given(st.dictionaries(st.sampled_from(FIELDS), values, max_size=3))
def test_restrictions(content):
    parsed, message = attempt(Restriction.parse, content)
    if parsed is None:
        assert any(f"restrict.{name}" in message for name in content)
        return
    for name in ("lengths", "angles", *LATTICE_PARAMETERS, "volume_per_atom"):
        value = getattr(parsed, name)
        assert value is None or 0 < value[0] < value[1] < math.inf
    assert Restriction.parse(parsed.given()) == parsed


@bounded
@given(st.one_of(st.text(max_size=60), values.map(yaml.safe_dump), st.binary(max_size=60)))
def test_restrictions_in_files(tmp_path, content):
    path = tmp_path / "restriction.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    found, message = attempt(read_restriction, path)
    assert isinstance(found, dict) or str(path) in message


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("plain") / "plain.pt"
    write_plain(path, "a test", {"state_dict": {"weight": torch.arange(100.0)}, "name": "x"})
    return path.read_bytes()


@bounded
@given(st.data())
def test_damaged_files_of_tensors(tmp_path, plain, data):
    """Any byte changed, any part cut off: it is read, or there is a message."""
    content = bytearray(plain)
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "plain.pt"
    path.write_bytes(content)

    def plainly(path: Path):
        return read_plain(path, "a test", "no such file", "a test", "write it again")

    for read in (read_checkpoint, plainly):
        found, message = attempt(read, path)
        assert isinstance(found, dict) or str(path) in message
