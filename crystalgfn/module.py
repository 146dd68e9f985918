"""The GFlowNet as a LightningModule: a thin shell around rollout, proxy, reward and loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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
from crystalgfn.proxies.base import Proxy
from crystalgfn.random import generator
from crystalgfn.replay import ReplayBuffer
from crystalgfn.rewards import Reward
from crystalgfn.rollout import Trajectories, log_forward, sample_backward, sample_forward


class GFlowNet(LightningModule):
    """Learns to sample objects with probability proportional to a reward, by trajectory balance.

    Every step method returns a dictionary with, for the n objects it sampled: ``states`` (n, state_size),
    ``property`` (n,) in the proxy's unit, ``log_reward`` (n,) and ``log_pf`` (n,); callbacks read it. Training adds
    ``loss``.

    Args:
        env: what is built, and how.
        proxy: predicts the property of an object.
        reward: turns the property into log R.
        policy: makes the policy network from each decision's input size and number of logits.
        batch_size: trajectories sampled with the policy in each training step.
        lr: learning rate of the policy at the start.
        lr_log_z: learning rate of log Z at the start.
        lr_final: both learning rates fall along half a cosine to this share of their start at ``max_steps``.
        epsilon: probability of a uniformly random decision at the start of training.
        epsilon_steps: steps over which epsilon falls linearly to zero; 0 keeps it.
        replay_capacity: terminal states kept for replay, those of the highest rewards; 0 for no replay.
        replay_batch_size: replayed trajectories added to each training step.
        seed: of the policy's first weights and of every random stream.
    """

    def __init__(
        self,
        env: Environment,
        proxy: Proxy,
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
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check(batch_size=batch_size, lr=lr, lr_log_z=lr_log_z)
        _check_share(epsilon=epsilon, lr_final=lr_final)
        _check_count(epsilon_steps=epsilon_steps, replay_capacity=replay_capacity, replay_batch_size=replay_batch_size)
        if bool(replay_capacity) != bool(replay_batch_size):
            raise InputError(
                f"replay_capacity ({replay_capacity}) and replay_batch_size ({replay_batch_size}): "
                "set both, or leave both at 0 for no replay"
            )
        self.env = env
        self.proxy = proxy.eval().requires_grad_(False)
        self.reward = reward
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
            {name: MeanMetric() for name in (f"{proxy.name}_mean", "log_reward_mean", "loss")}
        )

    # Sampling

    @torch.no_grad()
    def evaluate(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Property (n,) in the proxy's unit and log R (n,) of n terminal states.

        Raises:
            InputError: if the proxy returns another shape, or a value that is not finite.
        """
        values = self.proxy(self.env.decode(states))
        if values.shape != (len(states),):
            raise InputError(
                f"proxy {type(self.proxy).__name__}: returned shape {tuple(values.shape)} for {len(states)} objects; "
                f"it must be ({len(states)},)"
            )
        bad = ~torch.isfinite(values)
        if bad.any():
            row = int(bad.nonzero()[0])
            raise InputError(
                f"proxy {type(self.proxy).__name__}: {self.proxy.name} is {values[row].item()} for "
                f"{self.env.describe(states[row : row + 1])[0]}; every value must be finite"
            )
        return values.to(torch.float64), self.reward(values)

    def sample(self, n: int, generator: Generator) -> dict[str, Tensor]:
        """Sample n objects with the policy as it is; see the class for what is returned."""
        trajectories, log_pf = sample_forward(self.env, self.policy, n, generator)
        values, log_reward = self.evaluate(trajectories.states)
        return {
            "states": trajectories.states,
            "property": values,
            "log_reward": log_reward,
            "log_pf": log_pf,
            "log_pb": trajectories.log_pb,
        }

    # Training

    def training_step(self, batch: int, batch_idx: int) -> dict[str, Tensor]:
        stream = self._training_generator()
        trajectories, _ = sample_forward(self.env, self.policy, self.batch_size, stream, self._current_epsilon())
        values, log_reward = self.evaluate(trajectories.states)
        all_rewards = log_reward
        if self.replay is not None:
            states, replayed = self.replay.sample(self.replay_batch_size, stream)
            if len(states):
                trajectories = Trajectories.cat([trajectories, sample_backward(self.env, states, stream)])
                all_rewards = torch.cat([log_reward, replayed])
        log_pf = log_forward(self.env, self.policy, trajectories)
        if self.global_step == 0:
            # Start log Z where the first batch has it, instead of crawling there at its learning rate.
            first = (all_rewards + trajectories.log_pb - log_pf.detach()).mean()
            self.log_z.data.fill_(self.trainer.strategy.reduce(first, reduce_op="mean"))
        loss = trajectory_balance(self.log_z, log_pf, trajectories.log_pb, all_rewards)
        if not torch.isfinite(loss):
            raise InputError(
                f"the loss is {loss.item()} at step {self.global_step}; lower model.lr, or set "
                "trainer.gradient_clip_val"
            )
        if self.replay is not None:
            self.replay.add(trajectories.states[: self.batch_size], log_reward)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/log_z", self.log_z, prog_bar=True)
        self.log(f"train/{self.proxy.name}_mean", values.mean(), prog_bar=True)
        self.log("train/log_reward_mean", log_reward.mean())
        return {
            "loss": loss,
            "states": trajectories.states[: self.batch_size],
            "property": values,
            "log_reward": log_reward,
            "log_pf": log_pf.detach()[: self.batch_size],
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
        # In a tree log_pf - log_pb is log p(x); elsewhere it is an unbiased estimate of p(x) from one trajectory.
        log_p = samples["log_pf"] - samples["log_pb"]
        log_reward = samples["log_reward"]
        self._correlation(log_p.float(), log_reward.float())
        loss = trajectory_balance(self.log_z, samples["log_pf"], samples["log_pb"], log_reward)
        values = {f"{self.proxy.name}_mean": samples["property"], "log_reward_mean": log_reward, "loss": loss}
        for name, value in values.items():
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
