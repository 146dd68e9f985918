"""Writes the table of samples of ``crystalgfn predict``."""

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
from crystalgfn.gflownet.proxies.names import check_property_name
from crystalgfn.gflownet.proxies.proxy_set import ProxySet

if TYPE_CHECKING:
    import pandas as pd


class SampleWriter(Callback):
    """Writes the samples of ``predict`` as one table, CSV or parquet depending on the ending of its name.

    Columns: those of the environment's ``to_frame`` (for crystals formula, space_group, a, b, c [Å], alpha, beta,
    gamma [degrees], oxidation_states); the property of each proxy in its unit, under its name, with its uncertainty if
    it has one (``<property>_uncertainty``); log_reward and log_pf, and log_prior if there is a prior. If a run skips
    objects without a finite prediction, log_reward of such an object is empty. Numbers have all digits: reading the
    table gives the same floats.

    Each process writes its batches to a hidden folder next to the table. At the end the first process joins the batches
    in the order of sampling. The table is written completely or not at all.

    Args:
        out: the table to write; None for ``out`` of the data module.

    Raises:
        InputError: before sampling, if no table is given, its name has a wrong ending, or it cannot be written.
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
        # All processes stop after a problem in the first one. Otherwise they would wait for it.
        path, folder, problem = trainer.strategy.broadcast((self._path, folder, problem))
        if problem is not None:
            raise InputError(problem)
        self._path, self._parts = path, folder

    def _prepare(self, trainer: Trainer) -> Path:
        """Check the table's name and make the folder for its parts."""
        out = self.out if self.out is not None else getattr(trainer.datamodule, "out", None)  # type: ignore[attr-defined]
        if out is None:
            raise InputError("out: no file is given; set data.out to the table to write, such as samples.csv")
        self._path = Path(out)
        try:
            table_kind(self._path)
            check_writable(self._path)
        except InputError as error:
            raise InputError(f"{'data.out' if self.out is None else 'out'}: {error}") from None
        self._path.parent.mkdir(parents=True, exist_ok=True)
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
        if not len(outputs["states"]):  # the batch was a request for no samples
            return
        # A ticket knows its place in the order of batches. Other batches are given to the processes in turn.
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
        # Print at the end, so that the line is not mixed with the progress bar.
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
    """Make a table from a batch of samples.

    Args:
        env: the environment in which they were sampled.
        proxies: the proxies that predicted their properties.
        outputs: values returned by ``predict_step`` of the model.

    Returns:
        one row for each sample, with the columns of `SampleWriter`.

    Raises:
        InputError: if the name of a property is that of another column.
    """
    frame = env.to_frame(outputs["states"])
    objects = list(frame.columns)
    for column, values in zip(proxies.columns, outputs["properties"].unbind(1), strict=True):
        if column.is_property:
            check_property_name("proxy: name", column.name, objects)
        frame[column.name] = values.double().cpu().numpy()
    for name in [name for name in ("log_reward", "log_prior", "log_pf") if name in outputs]:
        frame[name] = outputs[name].double().cpu().numpy()
    return frame


def _merge_csv(parts: list[Path], out: Path) -> int:
    """Join CSV files that have the same header, and return the number of rows."""
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
    """Join parquet files that have the same columns, one at a time, and return the number of rows."""
    import pyarrow.parquet as pq

    n_rows = 0
    schema = pq.read_schema(parts[0])
    with pq.ParquetWriter(out, schema) as writer:
        for part in parts:
            table = pq.read_table(part).cast(schema)
            writer.write_table(table)
            n_rows += table.num_rows
    return n_rows
