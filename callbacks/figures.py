"""Pictures of the samples: distributions of properties, elements and space groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from crystalgfn.callbacks.coverage import coverage_metrics, update_coverage
from crystalgfn.callbacks.sink import Sink
from crystalgfn.callbacks.window import Metrics, WindowCallback, crystal_environment, environment, proxies_of
from crystalgfn.crystal.crystallography import N_ELEMENTS, N_SPACE_GROUPS, atomic_numbers
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.crystal.tables import read_table
from crystalgfn.errors import InputError
from crystalgfn.gflownet.metrics import Values
from crystalgfn.gflownet.proxies.base import Proxy

if TYPE_CHECKING:
    import pandas as pd

    from crystalgfn.evaluation.drawing import ReferenceCrystals


class LogFigures(WindowCallback):
    """Draws pictures of the samples for TensorBoard. Without a TensorBoard logger it does nothing.

    Tags: ``figures/<property>``, the distribution of each proxy's property over the samples, compared with a reference;
    ``figures/elements``, a periodic table with the share of samples that contain each element;
    ``figures/space_groups``, the share of each space group and crystal system.

    Args:
        every_n_steps: number of training steps between two sets of pictures of training samples; None for pictures of
            validations and tests only.
        reference: table of crystals to compare with, CSV or parquet. Only rows with allowed elements are used. A
            column with the name of a proxy's property gives the reference values of the property; without such a
            column, the proxy predicts them.
        reference_split: use only rows with this text in the column ``split``; None for all rows.

    Raises:
        InputError: if the interval is not positive, the environment builds no crystals, or the reference is not usable.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        reference: Path | None = None,
        reference_split: str | None = "val",
    ) -> None:
        super().__init__(every_n_steps)
        if reference is not None and not Path(reference).is_file():
            raise InputError(f"reference: {reference} is not allowed; it must be an existing CSV or parquet file")
        self.reference, self.reference_split = reference, reference_split
        self._references: dict[str, ReferenceCrystals] = {}

    def make_metrics(self, pl_module: LightningModule) -> Metrics:
        properties = {
            f"property {column.name}": Values() for column in proxies_of(pl_module).columns if column.is_property
        }
        return {**properties, **coverage_metrics(crystal_environment(pl_module, self))}

    def prepare(self, pl_module: LightningModule) -> None:
        if self.reference is not None:
            elements = crystal_environment(pl_module, self).elements
            proxies = list(proxies_of(pl_module))
            self._references = read_references(Path(self.reference), self.reference_split, elements, proxies)

    def update(self, metrics: Metrics, pl_module: LightningModule, outputs: Mapping[str, Tensor]) -> None:
        for column, values in zip(proxies_of(pl_module).columns, outputs["properties"].unbind(1), strict=True):
            if column.is_property:
                metrics[f"property {column.name}"].update(values)
        update_coverage(metrics, environment(pl_module).decode(outputs["states"]))

    def report(self, metrics: Metrics, pl_module: LightningModule, sink: Sink) -> None:
        columns = [column for column in proxies_of(pl_module).columns if column.is_property]
        properties = {column: metrics[f"property {column.name}"].compute().cpu().numpy() for column in columns}
        counts = {name: metrics[name].compute()["counts"].cpu() for name in ("elements", "space_groups")}
        n_samples = int(counts["space_groups"].sum())
        boards = sink.boards
        if n_samples == 0 or not boards:
            return

        from crystalgfn.evaluation import drawing

        shares = counts["elements"].double() / n_samples
        which = {"": "training", "val": "validation", "test": "test"}[sink.stage]
        ending = f"of {n_samples:,} {which} samples, step {sink.step}"
        possible = metrics["elements"].possible.cpu().numpy()
        figures = {
            column.name: drawing.property_figure(
                values,
                column.name,
                column.unit,
                f"{column.name.replace('_', ' ').capitalize()} {ending}",
                self._references.get(column.name),
            )
            for column, values in properties.items()
        }
        figures["elements"] = drawing.elements_figure(shares.numpy(), possible, f"Elements {ending}")
        figures["space_groups"] = drawing.space_groups_figure(
            counts["space_groups"].numpy(), f"Space groups {ending}", next(iter(self._references.values()), None)
        )
        for name, figure in figures.items():
            image = drawing.to_image(figure)
            for board in boards:
                board.add_image(sink.tag(f"figures/{name}"), image, sink.step, dataformats="HWC")


@torch.no_grad()
def read_references(
    path: Path, split: str | None, elements: tuple[str, ...], proxies: Sequence[Proxy]
) -> dict[str, ReferenceCrystals]:
    """Read the crystals with which samples are compared.

    Args:
        path: CSV or parquet file.
        split: text that rows must have in the column ``split``; None for all rows.
        elements: symbols of the allowed elements; rows with other elements are left out.
        proxies: proxies of the properties. A proxy predicts its property if the table has no such column.

    Returns:
        the reference crystals for each property.

    Raises:
        InputError: if the table cannot be read, has no such split, or has no usable row.
    """
    from crystalgfn.evaluation.drawing import ReferenceCrystals

    # The table need not have a column for the property, so one table can be used with every proxy.
    table = read_table(path, strict=False)
    rows, crystals = table.rows, table.crystals
    if split is not None:
        if "split" not in table.frame.columns:
            raise InputError(
                f"reference_split: {split!r} is not allowed; {path} has no column 'split'; set reference_split to null "
                "to use all rows"
            )
        splits = table.frame["split"].astype(str)
        keep = torch.from_numpy((splits == split).to_numpy(dtype=bool, copy=True))[rows]
        if not keep.any():
            raise InputError(
                f"reference_split: {split!r} is not allowed; the splits in {path} are {', '.join(sorted(set(splits)))}"
            )
        rows, crystals = rows[keep], crystals[keep]
    forbidden = torch.ones(N_ELEMENTS, dtype=torch.bool)
    forbidden[[atomic_numbers()[symbol] - 1 for symbol in elements]] = False
    keep = (crystals.counts[:, forbidden] == 0).all(1)
    rows, crystals = rows[keep], crystals[keep]
    references = {}
    for proxy in proxies:
        values = _property(table.frame, rows, crystals, proxy)
        keep = torch.isfinite(values)
        if not keep.any():
            raise InputError(
                f"reference: {path} is not allowed; it has no row"
                f"{f' of the split {split!r}' if split is not None else ''} with a value of {proxy.name} and only "
                f"the elements {' '.join(elements)}"
            )
        groups = torch.bincount(crystals.space_group[keep] - 1, minlength=N_SPACE_GROUPS)
        label = f"reference ({split})" if split is not None else "reference"
        references[proxy.name] = ReferenceCrystals(label, values[keep].numpy(), groups.numpy())
    return references


def _property(frame: pd.DataFrame, rows: Tensor, crystals: Crystals, proxy: Proxy) -> Tensor:
    """(k,) float64 property of k crystals: from the column in their rows of a table, or predicted by the proxy."""
    if proxy.name in frame.columns:
        import pandas as pd

        column = pd.to_numeric(frame[proxy.name], errors="coerce").to_numpy(dtype="float64", copy=True)
        return torch.from_numpy(column)[rows]
    return proxy(crystals).double().cpu() if len(crystals) else torch.zeros(0, dtype=torch.float64)
