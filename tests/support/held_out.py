"""Errors of a shipped proxy on the test rows of the table it was trained with, where that table is at hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from real_crystals import CRYSTALS

from crystalgfn.crystal.tables import read_table
from crystalgfn.proxies import PropertyModel


@dataclass(frozen=True)
class HeldOut:
    """Errors on the exact test rows, worked out here with pandas, and the model card's numbers for the same rows."""

    n: int
    mae: float
    with_rise: float
    uncertainty: float
    spearman: float
    frame: pd.DataFrame
    card: dict[str, float]


def held_out_errors(proxy: PropertyModel, weights: Path) -> HeldOut:
    table = read_table(CRYSTALS, label=proxy.name, strict=False)
    frame = table.frame.iloc[table.rows.tolist()].reset_index(drop=True)
    chosen = frame[(frame["split"] == "test") & (frame[f"{proxy.name}_kind"] == "exact")]
    crystals = table.crystals[torch.tensor(chosen.index.to_numpy())]
    parts = [crystals[slice(start, start + 1024)] for start in range(0, len(crystals), 1024)]
    estimates = [proxy.estimate(part) for part in parts]
    chosen = chosen.assign(
        value=torch.cat([e.value for e in estimates]).numpy(),
        uncertainty=torch.cat([e.uncertainty for e in estimates]).numpy(),
        not_zero=torch.cat([e.not_zero for e in estimates]).numpy(),
        predicted=torch.cat([proxy(part) for part in parts]).numpy(),
    )
    error = (chosen["value"] - chosen[proxy.name]).abs()
    card = json.loads(weights.with_suffix(".json").read_text())["errors"]["test"]["reference rows"]
    return HeldOut(
        n=len(chosen),
        mae=error.mean(),
        with_rise=(chosen["predicted"] - chosen[proxy.name]).abs().mean(),
        uncertainty=chosen["uncertainty"].mean(),
        spearman=error.rank().corr(chosen["uncertainty"].rank()),
        frame=chosen.assign(error=error),
        card=card,
    )
