"""The table that ``predict`` writes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning import Callback, LightningModule, Trainer

from crystalgfn.callbacks.window import environment, proxies_of
from crystalgfn.errors import InputError
from crystalgfn.files import atomic_path, check_writable, table_kind
from crystalgfn.gflownet.data import Ticket
from crystalgfn.gflownet.envs.base import Environment
from crystalgfn.gflownet.proxies.proxy_set import ProxySet

if TYPE_CHECKING:
    import pandas as pd


class SampleWriter(Callback):
    """Writes the samples of ``predict`` as one table, CSV or parquet by the ending of its name.

    Columns: those of the environment's ``to_frame`` (for crystals formula, space_group, a, b, c [Å], alpha, beta,
    gamma [degrees], oxidation_states), for each proxy the property under its name and in its unit and, if there is
    one, its uncertainty (``<property>_uncertainty``), log_reward and log_pf. An object whose prediction is not finite,
    in a run that skips such, has no log_reward. Numbers are written in full: reading them gives the same floats.

    Each process writes each batch to a hidden folder beside the table. At the end the first process puts them
    together, in the order in which they were asked for, and the table appears complete or not at all.

    Args:
        out: the table; None takes ``out`` of the data module.

    Raises:
        InputError: before sampling, if there is no ``out``, it has another ending, or it cannot be written.
    """

    def __init__(self, out: Path | None = None) -> None:
        self.out = out
        self._path = Path()
        self._parts: Path | None = None
        self._n_rows: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "predict":
            return
        self._n_rows, self._parts = None, None
        folder, problem = None, None
        if trainer.is_global_zero:
            try:
                folder = self._prepare(trainer)
            except InputError as error:
                problem = str(error)
        # All processes learn of a problem, so that none waits for one that has stopped.
        path, folder, problem = trainer.strategy.broadcast((self._path, folder, problem))
        if problem is not None:
            raise InputError(problem)
        self._path, self._parts = path, folder

    def _prepare(self, trainer: Trainer) -> Path:
        """Check the table's name and make the folder for its parts."""
        out = self.out if self.out is not None else getattr(trainer.datamodule, "out", None)  # type: ignore[attr-defined]
        if out is None:
            raise InputError("out: no file is named; set data.out to the table to write, such as samples.csv")
        self._path = Path(out)
        table_kind(self._path)
        check_writable(self._path)
        return Path(tempfile.mkdtemp(dir=self._path.parent, prefix=f".{self._path.name}.parts-"))

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert self._parts is not None
        if not len(outputs["states"]):  # a ticket for no object
            return
        # Processes take batches in turn; a ticket knows its own place.
        is_ticket = isinstance(batch, Ticket) and isinstance(batch.stream[-1], int)
        place = batch.stream[-1] if is_ticket else batch_idx * trainer.world_size + trainer.global_rank
        part = self._parts / f"{dataloader_idx:04d}-{place:012d}{self._path.suffix}"
        frame = samples_frame(environment(pl_module), proxies_of(pl_module), outputs)
        if table_kind(self._path) == "CSV":
            frame.to_csv(part, index=False)
        else:
            frame.to_parquet(part, index=False)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.barrier("parts")
        if trainer.is_global_zero and self._parts is not None:
            parts = sorted(self._parts.iterdir())
            with atomic_path(self._path) as temporary:
                merge = _merge_csv if table_kind(self._path) == "CSV" else _merge_parquet
                self._n_rows = merge(parts, temporary)
        trainer.strategy.barrier("table")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._remove_parts()
        # Only now, so that it does not end up in the line of the progress bar.
        if stage == "predict" and self._n_rows is not None:
            print(f"{self._path}: {self._n_rows} samples")
            self._n_rows = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._remove_parts()

    def _remove_parts(self) -> None:
        if self._parts is not None:
            shutil.rmtree(self._parts, ignore_errors=True)
            self._parts = None


def samples_frame(env: Environment, proxies: ProxySet, outputs: Mapping[str, Any]) -> pd.DataFrame:
    """The table of one batch of samples.

    Args:
        env: the environment that they were sampled in.
        proxies: what predicted their properties.
        outputs: what ``predict_step`` of the model returned.
    """
    frame = env.to_frame(outputs["states"])
    for column, values in zip(proxies.columns, outputs["properties"].unbind(1), strict=True):
        frame[column.name] = values.double().cpu().numpy()
    for name in ("log_reward", "log_pf"):
        frame[name] = outputs[name].double().cpu().numpy()
    return frame


def _merge_csv(parts: list[Path], out: Path) -> int:
    """Join CSV files with the same header; returns the number of rows."""
    n_rows = 0
    with out.open("wb") as target:
        for number, part in enumerate(parts):
            with part.open("rb") as source:
                header = source.readline()
                if number == 0:
                    target.write(header)
                for line in source:
                    target.write(line)
                    n_rows += 1
    return n_rows


def _merge_parquet(parts: list[Path], out: Path) -> int:
    """Join parquet files with the same columns, one at a time; returns the number of rows."""
    import pyarrow.parquet as pq

    n_rows = 0
    schema = pq.read_schema(parts[0])
    with pq.ParquetWriter(out, schema) as writer:
        for part in parts:
            table = pq.read_table(part).cast(schema)
            writer.write_table(table)
            n_rows += table.num_rows
    return n_rows
