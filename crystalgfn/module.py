"""The GFlowNet as a LightningModule: a thin shell around rollout, proxy, reward and loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Generator, Tensor
from torchmetrics import MeanMetric, PearsonCorrCoef

from crystalgfn.data import Ticket
from crystalgfn.envs.base import Environment
from crystalgfn.errors import InputError
from crystalgfn.losses import trajectory_balance
from crystalgfn.policies.base import Policy
from crystalgfn.proxies import Proxy, ProxySet
from crystalgfn.random import generator
from crystalgfn.replay import ReplayBuffer
from crystalgfn.rewards import Reward
from crystalgfn.rollout import Trajectories, log_forward, sample_backward, sample_forward


class GFlowNet(LightningModule):
    """Learns to sample objects with probability proportional to a reward, by trajectory balance.

    Every step method returns a dictionary with, for the n objects it sampled: ``states`` (n, state_size),
    ``properties`` (n, columns) with the proxies' predictions and uncertainties, named by ``proxies.columns``,
    ``log_reward`` (n,) and ``log_pf`` (n,); callbacks read it. Training adds ``loss``.

    Args:
        env: what is built, and how.
        proxy: predicts a property of an object; a list of proxies predicts several.
        reward: turns what is predicted into log R.
        policy: makes the policy network from each decision's input size and number of logits.
        batch_size: trajectories sampled with the policy in each training step.
        lr: learning rate of the policy at the start.
        lr_log_z: learning rate of log Z at the start.
        lr_final: both learning rates fall along half a cosine to this share of their start at ``max_steps``.
        epsilon: probability of a uniformly random decision at the start of training.
        epsilon_steps: steps over which epsilon falls linearly to zero; 0 keeps it.
        replay_capacity: terminal states kept for replay, those of the highest rewards; 0 for no replay.
        replay_batch_size: replayed trajectories added to each training step.
        on_bad_value: what to do with an object for which a proxy gives NaN or an infinite value: ``stop`` with an
            error that names it, or ``skip`` it: it is left out of training and metrics and counted
            (``train/skipped``, all of a run), and a table of samples keeps it without a reward.
        seed: of the policy's first weights and of every random stream.
    """

    def __init__(
        self,
        env: Environment,
        proxy: Proxy | list[Proxy],
        reward: Reward,
        policy: Callable[[Mapping[str, tuple[int, int]]], Policy],
        batch_size: int = 256,
        lr: float = 1e-3,
        lr_log_z: float = 1.0,
        lr_final: float = 0.01,
        epsilon: float = 0.0,
        epsilon_steps: int = 0,
        replay_capacity: int = 0,
        replay_batch_size: int = 0,
        on_bad_value: Literal["stop", "skip"] = "stop",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if on_bad_value not in ("stop", "skip"):
            raise InputError(f"on_bad_value: {on_bad_value!r} is not allowed; allowed: stop, skip")
        _check(batch_size=batch_size, lr=lr, lr_log_z=lr_log_z)
        _check_share(epsilon=epsilon, lr_final=lr_final)
        _check_count(epsilon_steps=epsilon_steps, replay_capacity=replay_capacity, replay_batch_size=replay_batch_size)
        if bool(replay_capacity) != bool(replay_batch_size):
            raise InputError(
                f"replay_capacity ({replay_capacity}) and replay_batch_size ({replay_batch_size}): "
                "set both, or leave both at 0 for no replay"
            )
        self.env = env
        self.proxies = ProxySet(proxy).eval().requires_grad_(False)
        self.reward = reward
        reward.check(list(self.proxies))
        self.on_bad_value = on_bad_value
        self.skipped: Tensor
        self.register_buffer("skipped", torch.zeros((), dtype=torch.int64))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.policy = policy({name: (head.input_size, head.n_logits) for name, head in env.heads.items()})
        self.log_z = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.replay = ReplayBuffer(replay_capacity, env.state_size) if replay_capacity else None
        self.batch_size, self.replay_batch_size = batch_size, replay_batch_size
        self.lr, self.lr_log_z, self.lr_final = lr, lr_log_z, lr_final
        self.epsilon, self.epsilon_steps = epsilon, epsilon_steps
        self.seed = seed
        self._generator: Generator | None = None
        self._generator_state: Tensor | None = None
        self._correlation = PearsonCorrCoef()
        self._means = torch.nn.ModuleDict(
            {name: MeanMetric() for name in (*self._mean_names(), "log_reward_mean", "loss")}
        )

    # Sampling

    @torch.no_grad()
    def evaluate(self, states: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """What the proxies and the reward say of n terminal states.

        Returns:
            properties (n, columns), log R (n,), and its parts by property, each (n,). Where a prediction is not
            finite and such objects are to be skipped, log R is NaN.

        Raises:
            InputError: if a proxy returns another shape or type, or a value that is not finite and the run is to stop.
        """

        def describe(row: int) -> str:
            return self.env.describe(states[row : row + 1])[0]

        predictions, good = self.proxies.predict(self.env.decode(states), len(states), states.device, describe)
        if not good.all() and self.on_bad_value == "stop":
            row = int((~good).nonzero()[0])
            raise InputError(
                f"{self.proxies.complaint(predictions, row, describe(row))}; every value must be finite "
                "(model.on_bad_value: skip leaves such objects out)"
            )
        parts = self.reward.parts(predictions)
        log_reward = self.reward(predictions).masked_fill(~good, float("nan"))
        return self.proxies.matrix(predictions), log_reward, parts

    def sample(self, n: int, generator: Generator) -> dict[str, Tensor]:
        """Sample n objects with the policy as it is; see the class for what is returned."""
        trajectories, log_pf = sample_forward(self.env, self.policy, n, generator)
        properties, log_reward, _ = self.evaluate(trajectories.states)
        return {
            "states": trajectories.states,
            "properties": properties,
            "log_reward": log_reward,
            "log_pf": log_pf,
            "log_pb": trajectories.log_pb,
        }

    def _mean_names(self) -> list[str]:
        return [f"{column.name}_mean" for column in self.proxies.columns]

    # Training

    def training_step(self, batch: int, batch_idx: int) -> dict[str, Tensor]:
        stream = self._training_generator()
        before = stream.get_state()
        try:
            return self._training_step(stream)
        except Exception:
            # A checkpoint saved now repeats this step as it was.
            stream.set_state(before)
            raise

    def _training_step(self, stream: Generator) -> dict[str, Tensor]:
        trajectories, _ = sample_forward(self.env, self.policy, self.batch_size, stream, self._current_epsilon())
        properties, log_reward, parts = self.evaluate(trajectories.states)
        good = torch.isfinite(log_reward)
        all_rewards = log_reward
        if self.replay is not None:
            states, replayed = self.replay.sample(self.replay_batch_size, stream)
            if len(states):
                trajectories = Trajectories.cat([trajectories, sample_backward(self.env, states, stream)])
                all_rewards = torch.cat([log_reward, replayed])
        log_pf, log_pb = log_forward(self.env, self.policy, trajectories), trajectories.log_pb
        states = trajectories.states[: self.batch_size]
        if not good.all():
            keep = torch.isfinite(all_rewards)
            if not keep.any():
                raise InputError("on_bad_value: skip leaves nothing to train on; no value of a step is finite")
            log_pf, log_pb, all_rewards = log_pf[keep], log_pb[keep], all_rewards[keep]
            states, properties, log_reward = states[good], properties[good], log_reward[good]
            parts = {name: part[good] for name, part in parts.items()}
            self.skipped += (~good).sum()
        if self.global_step == 0:
            # Start log Z where the first batch has it, instead of crawling there at its learning rate.
            first = (all_rewards + log_pb - log_pf.detach()).mean()
            self.log_z.data.fill_(self.trainer.strategy.reduce(first, reduce_op="mean"))
        loss = trajectory_balance(self.log_z, log_pf, log_pb, all_rewards)
        if not torch.isfinite(loss):
            raise InputError(
                f"the loss is {loss.item()} at step {self.global_step}; lower model.lr, or set "
                "trainer.gradient_clip_val"
            )
        if self.replay is not None:
            self.replay.add(states, log_reward)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/log_z", self.log_z, prog_bar=True)
        for column, values in zip(self.proxies.columns, properties.unbind(1), strict=True):
            self.log(f"train/{column.name}_mean", values.mean(), prog_bar=column.is_property)
        self.log("train/log_reward_mean", log_reward.mean())
        if len(parts) > 1:
            for name, part in parts.items():
                self.log(f"train/log_reward_of_{name}_mean", part.mean())
        if self.on_bad_value == "skip":
            self.log("train/skipped", self.skipped.float())
        return {
            "loss": loss,
            "states": states,
            "properties": properties,
            "log_reward": log_reward,
            "log_pf": log_pf.detach()[: len(states)],
        }

    def _current_epsilon(self) -> float:
        if not self.epsilon_steps:
            return self.epsilon
        return self.epsilon * max(0.0, 1 - self.global_step / self.epsilon_steps)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.Adam(
            [
                {"params": list(self.policy.parameters()), "lr": self.lr, "name": "policy"},
                {"params": [self.log_z], "lr": self.lr_log_z, "name": "log_z"},
            ],
            lr=self.lr,
            fused=True,
        )
        steps = self.trainer.max_steps
        if steps is None or steps < 1:
            return optimizer
        cosine = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: (
                self.lr_final
                + (1 - self.lr_final) * (1 + torch.cos(torch.tensor(min(step / steps, 1.0) * torch.pi)).item()) / 2
            ),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}

    # Validation, test and prediction

    def validation_step(self, batch: Ticket, batch_idx: int) -> dict[str, Tensor]:
        return self._evaluation_step(batch, "val")

    def test_step(self, batch: Ticket, batch_idx: int) -> dict[str, Tensor]:
        return self._evaluation_step(batch, "test")

    def _evaluation_step(self, ticket: Ticket, stage: str) -> dict[str, Tensor]:
        samples = self.predict_step(ticket, 0)
        good = torch.isfinite(samples["log_reward"])
        if not good.all():
            samples = {name: value[good] for name, value in samples.items()}
        # In a tree log_pf - log_pb is log p(x); elsewhere it is an unbiased estimate of p(x) from one trajectory.
        log_p = samples["log_pf"] - samples["log_pb"]
        log_reward = samples["log_reward"]
        self._correlation(log_p.float(), log_reward.float())
        loss = trajectory_balance(self.log_z, samples["log_pf"], samples["log_pb"], log_reward)
        values = dict(zip(self._mean_names(), samples["properties"].unbind(1), strict=True))
        for name, value in (values | {"log_reward_mean": log_reward, "loss": loss}).items():
            metric = self._means[name]
            assert isinstance(metric, MeanMetric)
            metric(value)
            self.log(f"{stage}/{name}", metric, on_step=False, on_epoch=True)
        self.log(f"{stage}/log_p_log_reward_correlation", self._correlation, on_step=False, on_epoch=True)
        return samples

    def predict_step(self, batch: Ticket, batch_idx: int) -> dict[str, Tensor]:
        """Sample the objects of one ticket: as many as it asks for, from its own random stream."""
        # A full ticket is drawn whatever is asked for, so that fewer samples are a prefix of more.
        samples = self.sample(batch.size, generator(*batch.stream, device=self.device))
        return {name: value[: batch.n] for name, value in samples.items()}

    # Random streams and checkpoints

    def _training_generator(self) -> Generator:
        if self._generator is None:
            self._generator = generator(self.seed, "train", self.global_rank, device=self.device)
        return self._generator

    def on_train_start(self) -> None:
        # Restored here, not on loading: what happens in between may draw.
        if self._generator_state is not None:
            self._training_generator().set_state(self._generator_state)
            self._generator_state = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        states: list[Any] = [self._training_generator().get_state()]
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, states[0])
            states = gathered
        checkpoint["generator_states"] = states

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        states = checkpoint.get("generator_states", [])
        if self.global_rank < len(states):
            self._generator_state = states[self.global_rank]


def _check(**settings: float) -> None:
    for name, value in settings.items():
        if not value > 0:
            raise InputError(f"{name}: {value} is not allowed; it must be above 0")


def _check_share(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 <= value <= 1:
            raise InputError(f"{name}: {value} is not allowed; it must lie between 0 and 1")


def _check_count(**settings: int) -> None:
    for name, value in settings.items():
        if value < 0:
            raise InputError(f"{name}: {value} is not allowed; it must be 0 or more")
