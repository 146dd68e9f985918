"""Numbers of the shipped networks that their model cards do not have.

    python benchmarks/proxies.py --data TABLE

TABLE is the table that the networks were trained on. One thread, seed 0, less than a minute.

Results: docs/results/proxies.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd
import torch

from crystalgfn import Crystals
from crystalgfn.crystal.tables import read_table
from crystalgfn.proxies import BandGap, FormationEnergy, PropertyModel


def predictions(proxy: PropertyModel, data: Path, split: str) -> pd.DataFrame:
    """The rows of a split with exact labels, with the predictions of a proxy.

    Added columns: value, uncertainty, not_zero (probability that the value is not zero), level (mean of the members),
    outside, label and error.
    """
    table = read_table(data, label=proxy.name, strict=False)
    frame = table.frame.iloc[table.rows.tolist()].reset_index(drop=True)
    frame = frame[(frame["split"] == split) & (frame[f"{proxy.name}_kind"] == "exact")]
    parts = [table.crystals[rows] for rows in torch.tensor(frame.index.to_numpy()).split(1024)]
    estimates = [proxy.estimate(part) for part in parts]
    columns = {
        name: torch.cat([getattr(e, name) for e in estimates])
        for name in ("value", "uncertainty", "not_zero", "outside")
    }
    columns["level"] = torch.cat([proxy.network.outputs(part).members.mean(0) for part in parts])
    frame = frame.assign(label=frame[proxy.name], **{name: column.double().numpy() for name, column in columns.items()})
    return frame.assign(error=(frame["value"] - frame["label"]).abs())


def attainable(uncertainty: pd.Series, generator: torch.Generator) -> tuple[float, float]:
    """The rank correlation of uncertainty and error for ideal uncertainties: mean and standard deviation.

    Ideal means that the errors have an exponential distribution whose mean is the uncertainty.
    """
    means = torch.tensor(uncertainty.to_numpy())
    found = []
    for _ in range(100):
        errors = means * torch.empty_like(means).exponential_(generator=generator)
        found.append(uncertainty.rank().corr(pd.Series(errors.numpy(), index=uncertainty.index).rank()))
    return pd.Series(found).mean(), pd.Series(found).std()


def milliseconds(proxy: PropertyModel, crystals: Crystals) -> float:
    """The shortest CPU time [ms] of ten predictions."""
    times = []
    for _ in range(10):
        started = time.process_time()
        proxy.predict(crystals)
        times.append(time.process_time() - started)
    return 1000 * min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the table that the networks were trained on")
    data = parser.parse_args().data
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    crystals = read_table(data, strict=False).crystals[:1000]
    for proxy in (FormationEnergy(), BandGap()):
        print(f"\n{proxy.name} [{proxy.unit}]: {milliseconds(proxy, crystals):.0f} ms for 1000 crystals")
        frame = predictions(proxy, data, "test")
        for source, rows in [("all", frame), *frame.groupby("source")]:
            found = rows["uncertainty"].rank().corr(rows["error"].rank())
            mean, deviation = attainable(rows["uncertainty"], generator)
            print(f"  {source}: rank correlation {found:.2f}; attainable {mean:.2f} ± {deviation:.2f}; n {len(rows)}")
    frame = predictions(BandGap(), data, "val")
    product = (frame["not_zero"] * frame["level"] - frame["label"]).abs().mean()
    print(f"\nband gap, validation rows: MAE {frame['error'].mean():.3f} eV; of the product {product:.3f} eV")
    frame = predictions(BandGap(), data, "test")
    for title, rows in {
        "clear metals (probability of a gap below 2 %)": frame[frame["not_zero"] < 0.02],
        "metal or gap (35 to 65 %)": frame[frame["not_zero"].between(0.35, 0.65)],
        "metal or a gap above 1.5 eV (35 to 65 %)": frame[
            frame["not_zero"].between(0.35, 0.65) & (frame["level"] > 1.5)
        ],
        "predicted within 0.3 eV of 1.34 eV": frame[(frame["value"] - 1.34).abs() < 0.3],
    }.items():
        print(f"  {title}: n {len(rows)}, uncertainty {rows['uncertainty'].mean():.3f}, MAE {rows['error'].mean():.3f}")


if __name__ == "__main__":
    main()
