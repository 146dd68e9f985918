"""A table of the best samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from crystalgfn.callbacks.sink import Sink
from crystalgfn.callbacks.window import Metrics, WindowCallback, crystal_environment, environment, proxies_of
from crystalgfn.checks import at_least
from crystalgfn.crystal.crystallography import space_groups
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.crystal.keys import composition_keys
from crystalgfn.gflownet.metrics import TopK


class LogTopK(WindowCallback):
    """Logs a table of the k distinct objects with the highest rewards, for any environment.

    In training these are the best objects since the start of the run; in a validation or test they are the best objects
    among its samples. Tags: ``top_k/table`` (text in TensorBoard), ``top_k/log_reward_mean`` and
    ``top_k/<property>_mean``.

    Args:
        k: number of rows in the table.
        every_n_steps: number of training steps between two tables.
        one_per_composition: whether the table has only the best cell of each pair of space group and composition.

    Raises:
        InputError: if ``k`` or the interval is not positive, or if ``one_per_composition`` is set and the environment
            builds no crystals.
    """

    starts_anew: ClassVar[bool] = False

    def __init__(self, k: int = 10, every_n_steps: int = 500, one_per_composition: bool = False) -> None:
        super().__init__(every_n_steps)
        at_least("k", k, 1)
        self.k, self.one_per_composition = k, one_per_composition

    @property
    def state_key(self) -> str:
        return self._generate_state_key(k=self.k, one_per_composition=self.one_per_composition)

    def make_metrics(self, pl_module: LightningModule) -> Metrics:
        if self.one_per_composition:
            crystal_environment(pl_module, self)
        return {"top_k": TopK(self.k, environment(pl_module).state_size, len(proxies_of(pl_module).columns))}

    def update(self, metrics: Metrics, pl_module: LightningModule, outputs: Mapping[str, Tensor]) -> None:
        metric = metrics["top_k"]
        assert isinstance(metric, TopK)
        rows = metric.contenders(outputs["log_reward"])
        if len(rows) == 0:
            return
        states, values, log_reward = (outputs[name][rows] for name in ("states", "properties", "log_reward"))
        env = environment(pl_module)
        objects = env.decode(states)
        keys = composition_keys(objects) if self.one_per_composition else env.object_keys(objects, states)
        metric.update(states, values, log_reward, keys)

    def report(self, metrics: Metrics, pl_module: LightningModule, sink: Sink) -> None:
        best = metrics["top_k"].compute()
        if len(best["states"]) == 0:
            return
        columns = zip(proxies_of(pl_module).columns, best["properties"].mean(0), strict=True)
        means = {f"top_k/{column.name}_mean": mean for column, mean in columns}
        sink.scalars({"top_k/log_reward_mean": best["log_reward"].mean(), **means})
        boards = sink.boards
        if boards:
            table = _table(pl_module, best)
            for board in boards:
                board.add_text(sink.tag("top_k/table"), table, sink.step)


def _table(pl_module: LightningModule, best: Mapping[str, Tensor]) -> str:
    """A Markdown table of the objects, best first."""
    columns = proxies_of(pl_module).columns
    header, objects = _objects(pl_module, best["states"])
    titles = [column.name + (f" [{column.unit}]" if column.unit else "") for column in columns]
    header = ["rank", *header, *titles, "log R"]
    lines = [header, ["---"] * len(header)]
    numbers = torch.cat([best["properties"], best["log_reward"][:, None]], dim=1).tolist()
    for rank, (cells, values) in enumerate(zip(objects, numbers, strict=True), start=1):
        lines.append([str(rank), *cells, *(f"{value:.6g}" for value in values)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _objects(pl_module: LightningModule, states: Tensor) -> tuple[list[str], list[list[str]]]:
    """Headers and cells of the columns that describe each object."""
    env = environment(pl_module)
    objects = env.decode(states)
    if not isinstance(objects, Crystals):
        return ["object"], [[text.replace("|", "\\|")] for text in env.describe(states)]
    symbols = [f"{space_groups()[number - 1].symbol} ({number})" for number in objects.space_group.tolist()]
    cells = [" ".join(f"{x:.3f}" for x in row[:3]) for row in objects.lattice.tolist()]
    angles = [" ".join(f"{x:.2f}" for x in row[3:]) for row in objects.lattice.tolist()]
    header = ["formula", "space group", "a b c [Å]", "α β γ [°]"]
    return header, [list(row) for row in zip(objects.formulas(), symbols, cells, angles, strict=True)]
