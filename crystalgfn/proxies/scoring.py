"""Predictions for the crystals of a table."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from crystalgfn.crystal.crystals import OXIDATION_STATES, Crystals
from crystalgfn.crystal.tables import CRYSTAL_COLUMNS, read_table
from crystalgfn.errors import InputError
from crystalgfn.files import check_writable, table_kind, write_frame
from crystalgfn.gflownet.proxies import Proxy, predict_in_batches
from crystalgfn.gflownet.proxies.names import UNCERTAINTY, check_property_name
from crystalgfn.plugins import load_everything
from crystalgfn.registry import PROXIES

if TYPE_CHECKING:
    import pandas as pd

REASON = "reason"
"""Column that says why a row has no score; empty for the others."""


def score(table: Path, proxy: str, out: Path, weights: Path | None = None) -> tuple[pd.DataFrame, str, str]:
    """Add a proxy's property to a table and write the result.

    All rows and columns are kept, in order. The new columns are the property, its uncertainty (if the proxy has one),
    and ``reason``. The column of the uncertainty is named like the property, followed by ``_uncertainty``. If a row
    cannot be scored, its property and uncertainty are empty, and ``reason`` says why.

    Args:
        table: CSV or parquet file.
        proxy: name of a registered proxy.
        out: CSV or parquet file to write; an existing file is replaced.
        weights: file of weights, for a proxy that uses one.

    Returns:
        the table as written, the name of the property and its unit.

    Raises:
        InputError: if the table cannot be read, the proxy is unknown or does not use weights, the table already has
            one of the new columns, or the output cannot be written.
    """
    table_kind(out)
    check_writable(out)
    model = make_proxy(proxy, weights)
    data = read_table(table, strict=False)
    added = [model.name, *([model.name + UNCERTAINTY] if model.has_uncertainty else [])]
    taken = [column for column in (*added, REASON) if column in data.frame.columns]
    if taken:
        raise InputError(f"{table}: already has column(s) {', '.join(taken)}; rename them first")
    # In the proxy's own precision: a float32 written as float64 shows meaningless digits.
    values = torch.full((len(added), len(data.frame)), float("nan"), dtype=precision(model, proxy))
    reasons = ["" if problem is None else str(problem) for problem in data.problems]
    refused = model.refused(data.crystals) if len(data.rows) else []
    for row, reason in zip(data.rows.tolist(), refused, strict=True):
        reasons[row] = reason
    good = torch.tensor([not reason for reason in refused], dtype=torch.bool)
    if good.any():
        prediction = predict_in_batches(model, data.crystals[good])
        values[0, data.rows[good]] = prediction.value
        if prediction.uncertainty is not None:
            values[1, data.rows[good]] = prediction.uncertainty.to(values.dtype)
    for row in data.rows[~values[:, data.rows].isfinite().all(0)].tolist():
        reasons[row] = reasons[row] or f"{proxy} gives no finite value"
        values[:, row] = float("nan")
    frame = data.frame.reset_index(drop=True)
    for column, numbers in zip(added, values, strict=True):
        frame[column] = numbers.numpy()
    frame[REASON] = reasons
    write_frame(frame, out)
    return frame, model.name, model.unit


def precision(model: Proxy, name: str) -> torch.dtype:
    """Type of the numbers that a proxy returns for crystals, determined with rock salt.

    Args:
        model: the proxy.
        name: its name, for the message.

    Raises:
        InputError: if the proxy returns no value for a crystal, for example because it is made for other objects.
    """
    salt = Crystals.from_arrays([225], [{"Na": 4, "Cl": 4}], [[5.69, 5.69, 5.69, 90, 90, 90]])
    try:
        with torch.no_grad():
            return model(salt).dtype
    except Exception as error:  # a proxy of other objects can fail with any error
        raise InputError(f"--proxy: {name} gives no value for crystals: {type(error).__name__}: {error}") from None


def make_proxy(name: str, weights: Path | None) -> Proxy:
    """Make the proxy that is registered as ``name``.

    Args:
        name: name of a registered proxy.
        weights: file of weights, for a proxy that uses one.

    Raises:
        InputError: if the proxy is unknown, uses no weights but gets some, needs weights, or needs other settings, or
            if its name is not allowed.
    """
    load_everything()
    if name not in PROXIES:
        raise InputError(f"--proxy: unknown proxy {name!r}; registered: {', '.join(sorted(PROXIES))}")
    proxy: type[Proxy] = PROXIES.get(name)
    parameters = inspect.signature(proxy).parameters.values()
    takes_weights = "weights" in [p.name for p in parameters]
    if weights is not None and not takes_weights:
        raise InputError(f"--weights: {name} takes no weights")
    given = {} if weights is None else {"weights": weights}
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    missing = [parameter for parameter in required if parameter not in given]
    if missing == ["weights"]:
        raise InputError(f"--weights: {name} needs a file of weights; crystalgfn train-proxy writes one")
    if missing:
        raise InputError(f"--proxy: {name} cannot be used here, because it needs settings ({', '.join(missing)})")
    model = proxy(**given)
    check_property_name(f"--proxy {name}: name", model.name, (*CRYSTAL_COLUMNS, OXIDATION_STATES))
    return model
