"""Agreement of log p(x) with log R(x), for samples and for known objects."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Generator, Tensor

from crystalgfn.callbacks.sink import Sink
from crystalgfn.callbacks.window import Metrics, WindowCallback, gflownet
from crystalgfn.checks import at_least, between
from crystalgfn.errors import InputError
from crystalgfn.gflownet.data_set import KnownStates, read_states
from crystalgfn.gflownet.likelihood import log_likelihood
from crystalgfn.gflownet.metrics import LikelihoodAgreement, PartitionEstimate
from crystalgfn.random import generator

if TYPE_CHECKING:
    from crystalgfn.gflownet.module import GFlowNet


class LogLikelihood(WindowCallback):
    """Logs how close the sampler is to p(x) = R(x) / Z in validations and tests, for any environment.

    Tags for the samples: ``likelihood/pearson``, ``likelihood/spearman`` and ``likelihood/slope`` of log p against
    log R; ``likelihood/log_z``, an estimate of log Z, with ``likelihood/log_z_standard_error``;
    ``likelihood/log_z_error``, the learned log Z minus this estimate; ``likelihood/effective_share``; and the picture
    ``likelihood/figure``. Tags for the objects of a table: ``known/pearson``, ``known/spearman``, ``known/slope``,
    ``known/n``, ``known/left_out``, ``known/log_p_mean`` and ``known/log_reward_mean``; the picture is then
    ``likelihood/known``. docs/sampler.md explains these values.

    Args:
        table: table of known objects that the policy was not trained on, CSV or parquet; None for no table.
        only: values that columns of the table must have, such as ``{split: val}``; None for all rows.
        tolerance: largest relative deviation of a known object from the nearest one that the environment can build. A
            deviating object is replaced by that one.
        trajectories: number of backward trajectories for each object, if it can be built in several ways. In a tree
            log p is exact.
        name: the tags of the table begin with this name. Several callbacks with different tables need different names.

    Raises:
        InputError: if an option is not allowed, or the table cannot be read.
    """

    def __init__(
        self,
        table: Path | None = None,
        only: dict[str, str] | None = None,
        tolerance: float = 0.01,
        trajectories: int = 32,
        name: str = "known",
    ) -> None:
        super().__init__(None)
        at_least("trajectories", trajectories, 1)
        between("tolerance", tolerance, 0, 0.5, without=0.5)
        if not re.fullmatch(r"[\w.-]+", name):
            raise InputError(f"name: {name!r} is not allowed; use only letters, digits, and the signs _ . -")
        self.table, self.only, self.name = table, only, name
        self.tolerance, self.trajectories = tolerance, trajectories
        self._known: KnownStates | None = None
        self._known_log_reward: Tensor | None = None
        self._draws: Generator | None = None

    @property
    def state_key(self) -> str:
        return self._generate_state_key(name=self.name)

    def make_metrics(self, pl_module: LightningModule) -> Metrics:
        metrics: Metrics = {"samples": LikelihoodAgreement(), "partition": PartitionEstimate()}
        return metrics if self.table is None else {**metrics, "known": LikelihoodAgreement()}

    def prepare(self, pl_module: LightningModule) -> None:
        if self.table is None:
            return
        # log R is calculated later, when the networks are on their device.
        self._known = read_states(gflownet(pl_module).env, Path(self.table), self.tolerance, self.only, "table")
        self._known_log_reward = None
        reasons = Counter(self._known.problems.values()).most_common()
        why = f"; left out: {', '.join(f'{reason} ({count})' for reason, count in reasons)}" if reasons else ""
        rank_zero_info(f"known objects of {self.table}: {len(self._known.rows)}{why}")

    def update(self, metrics: Metrics, pl_module: LightningModule, outputs: Mapping[str, Tensor]) -> None:
        module = gflownet(pl_module)
        ratio = outputs["log_pf"] - outputs["log_pb"]
        if module.env.is_tree:
            log_p = ratio
        else:
            if self._draws is None:
                self._draws = self._stream(module, "samples")
            log_p = self._log_p(module, outputs["states"], self._draws)
        samples, partition = metrics["samples"], metrics["partition"]
        assert isinstance(samples, LikelihoodAgreement)
        assert isinstance(partition, PartitionEstimate)
        samples.update(log_p, outputs["log_reward"])
        partition.update(outputs["log_reward"] - ratio)

    def _stream(self, module: GFlowNet, name: str) -> Generator:
        """A separate random number generator, the same in every validation, so that training does not depend on it."""
        return generator(module.seed, "likelihood", name, module.global_rank, device=module.device)

    def _log_p(self, module: GFlowNet, states: Tensor, draws: Generator) -> Tensor:
        return log_likelihood(module.env, module.policy, states, draws, self.trajectories, module.backward_policy).log_p

    def _add_known(self, metrics: Metrics, pl_module: LightningModule, trainer: Trainer) -> None:
        """Add the known objects to the metrics; each process evaluates a part of them."""
        if self._known is None:
            return
        module, metric = gflownet(pl_module), metrics["known"]
        assert isinstance(metric, LikelihoodAgreement)
        states = self._known.states[trainer.global_rank :: trainer.world_size].to(module.device)
        if self._known_log_reward is None:
            self._known_log_reward = module.log_rewards(states)
        metric.to(module.device)
        metric.update(self._log_p(module, states, self._stream(module, "known")), self._known_log_reward)

    def report(self, metrics: Metrics, pl_module: LightningModule, sink: Sink) -> None:
        self._draws = None
        self._add_known(metrics, pl_module, sink.trainer)
        found = {name: metric.compute() for name, metric in metrics.items()}
        samples, partition = found["samples"], found["partition"]
        values = {f"likelihood/{name}": samples[name] for name in ("pearson", "spearman", "slope")}
        values |= {
            "likelihood/log_z": partition["log_z"],
            "likelihood/log_z_standard_error": partition["standard_error"],
            "likelihood/log_z_error": gflownet(pl_module).log_z.detach() - partition["log_z"],
            "likelihood/effective_share": partition["effective_share"],
        }
        if self._known is not None:
            values |= {f"{self.name}/{name}": value for name, value in found["known"].items()}
            values[f"{self.name}/left_out"] = torch.tensor(
                float(int(self._known.wanted.sum()) - int(found["known"]["n"]))
            )
        # Values that are not defined for a few samples are left out.
        sink.scalars({name: value for name, value in values.items() if value.isfinite()})
        self._draw(metrics, sink, float(partition["log_z"]))

    def _draw(self, metrics: Metrics, sink: Sink, log_z: float) -> None:
        sets = {}
        for name in [name for name in ("samples", "known") if name in metrics]:
            # Merge the values of all processes, as `compute` does. Every process has to call this.
            merged = metrics[name].merged_state()
            if len(merged["log_p"]):
                sets[name] = (merged["log_reward"].numpy(), merged["log_p"].numpy())
        boards = sink.boards
        if not boards or "samples" not in sets:
            return
        from crystalgfn.evaluation import drawing

        which = {"val": "validation", "test": "test"}[sink.stage]
        n = len(sets["samples"][0])
        # Outside of training the step is unknown.
        title = f"Sampler on {n:,} {which} samples" + (f", step {sink.step}" if sink.step else "")
        image = drawing.to_image(drawing.sampler_figure(*sets["samples"], log_z, sets.get("known"), title))
        for board in boards:
            board.add_image(
                sink.tag(f"likelihood/{'figure' if self.table is None else self.name}"),
                image,
                sink.step,
                dataformats="HWC",
            )
