"""The GFlowNet as a LightningModule: a thin shell around rollout, proxy, reward and loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Generator, Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torchmetrics import MeanMetric, PearsonCorrCoef

from crystalgfn.checks import at_least, between, one_of, positive
from crystalgfn.errors import InputError
from crystalgfn.gflownet.balance import Balance, MakePolicy, StateFlow, backward_shapes, policy_shapes
from crystalgfn.gflownet.checkpoint_files import (
    NAMES,
    NETWORKS,
    VALUES_OF_FILES,
    read_checkpoint,
    refuse_foreign,
    renewed,
    settings_in,
    space_names,
    start_networks,
)
from crystalgfn.gflownet.data import Samples, Ticket
from crystalgfn.gflownet.data_set import DataSet
from crystalgfn.gflownet.distributed import mean_over_processes, n_processes, sum_over_processes
from crystalgfn.gflownet.envs.base import Environment
from crystalgfn.gflownet.exploration import Exploration, Schedule, cosine_fall
from crystalgfn.gflownet.input_files import refuse_changed
from crystalgfn.gflownet.likelihood import log_likelihood, surprisal
from crystalgfn.gflownet.losses import Loss, TrajectoryBalance, trajectory_balance
from crystalgfn.gflownet.policies import MLP
from crystalgfn.gflownet.prior import Prior
from crystalgfn.gflownet.proxies import Proxy, ProxySet
from crystalgfn.gflownet.proxies.base import BATCH
from crystalgfn.gflownet.replay import ReplayBuffer
from crystalgfn.gflownet.rewards import NoReward, Reward
from crystalgfn.gflownet.rollout import (
    BackwardPolicy,
    Trajectories,
    UniformBackward,
    sample_backward,
    sample_forward,
    sample_to_learn,
)
from crystalgfn.gflownet.step_guard import StepGuard
from crystalgfn.gflownet.target import check_target
from crystalgfn.plugins import texts
from crystalgfn.random import generator
from crystalgfn.settings import instantiate, merged

FINETUNE_EPSILON = 0.1
"""Probability of a uniformly random decision at the first step of fine-tuning; it falls linearly to 0."""

FINETUNE_LR_FINAL = 0.01
"""Factor to which the learning rates of fine-tuning fall, relative to their starting values."""


class GFlowNet(LightningModule):
    """Learns to sample objects with probability proportional to a reward, or objects like known ones.

    Every step method returns a dictionary about the n objects that it sampled: ``states`` (n, state_size);
    ``properties`` (n, columns), the proxies' predictions and uncertainties, with the columns ``proxies.columns``;
    ``log_reward`` (n,); and ``log_pf`` (n,). Callbacks read this dictionary. The training step adds ``loss``, all other
    steps add ``log_pb`` (n,). With a prior, all steps add ``log_prior`` (n,), log p_prior(x): exact in a
    tree, otherwise log P_prior - log P_B of the sampled trajectory. ``log_reward`` contains it.

    Args:
        env: the environment: which objects are built, and how.
        proxy: predicts a property of an object; give a list of proxies to predict several properties. None if there
            is no reward.
        reward: turns the predictions into log R, with a prior into log f. None only with a prior, whose samples are
            then learned, or with the loss `MaximumLikelihood`; properties are then only recorded.
        policy: makes the policy network from the shape of each decision; None for an `MLP`.
        loss: the loss to minimise; None for trajectory balance.
        backward_policy: ``uniform`` over the parents of a state; ``fixed``, the environment's own P_B, which is uniform
            if the environment defines no other; or ``learned``, a network of the same kind as the policy, allowed only
            if states can have several parents.
        batch_size: number of trajectories sampled with the policy in each training step.
        replay: buffer of sampled terminal states that are trained on again; None for none.
        data_set: known objects to train on; None for none.
        prior: a trained policy, whose probability of an object is a factor of the reward; None for none.
        lr: learning rate of the networks at the start.
        lr_log_z: learning rate of log Z at the start.
        lr_final: factor to which both learning rates fall until ``max_steps``, along half a cosine, relative to their
            starting values.
        epsilon: probability of a uniformly random decision at the start of training.
        temperature: temperature of all other decisions at the start of training; above 1, their probabilities are more
            equal.
        exploration_steps: steps over which epsilon falls to 0 and the temperature goes to 1; 0 keeps both constant.
        exploration_schedule: shape of this change: ``linear``, or ``cosine`` for half a cosine.
        on_bad_value: what to do if a proxy gives NaN or an infinite value for an object. ``stop`` ends the run with an
            error that names the object. ``skip`` leaves the object out of training and metrics and counts it
            (``train/skipped``, the total of a run); a table of samples lists it without a reward.
        start_from: checkpoint of another run, or the name of a model that comes with the package; training starts with
            its networks instead of random weights. That run must have the same policy, and its decisions must include
            those of this run; it can have another reward or proxy. Optimizer, schedules and log Z start anew. None for
            random weights.
        seed: seed of the policy's first weights and of every random stream.

    Raises:
        InputError: if a setting is not allowed, or if settings do not fit together.
    """

    def __init__(
        self,
        env: Environment,
        proxy: Proxy | list[Proxy] | None = None,
        reward: Reward | None = None,
        policy: MakePolicy | None = None,
        loss: Loss | None = None,
        backward_policy: Literal["uniform", "fixed", "learned"] = "fixed",
        batch_size: int = 256,
        replay: ReplayBuffer | None = None,
        data_set: DataSet | None = None,
        prior: Prior | None = None,
        lr: float = 1e-3,
        lr_log_z: float = 1.0,
        lr_final: float = 0.01,
        epsilon: float = 0.0,
        temperature: float = 1.0,
        exploration_steps: int = 0,
        exploration_schedule: Schedule = "linear",
        on_bad_value: Literal["stop", "skip"] = "stop",
        start_from: Path | str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        one_of("on_bad_value", on_bad_value, ("stop", "skip"))
        at_least("batch_size", batch_size, 1)
        positive("lr", lr)
        positive("lr_log_z", lr_log_z)
        between("lr_final", lr_final, 0, 1)
        self.exploration = Exploration(epsilon, temperature, exploration_steps, exploration_schedule)
        self.loss = loss if loss is not None else TrajectoryBalance()
        self._keep_states = self.loss.uses_edges or self.loss.forward_looking
        self.loss.check(env, backward_policy)
        if not (self.loss.learns_log_z or self.loss.uses_known_alone) and batch_size < 2:
            name = type(self.loss).__name__
            raise InputError(f"batch_size: {batch_size} is not allowed; {name} compares trajectories, use 2 or more")
        check_target(env, self.loss, backward_policy, reward, prior, replay, data_set)
        policy = policy if policy is not None else MLP
        self.env = env
        self.proxies = ProxySet(proxy if proxy is not None else [], env.columns()).eval().requires_grad_(False)
        self.reward = reward if reward is not None else NoReward()
        self.reward.check(list(self.proxies))
        self.on_bad_value = on_bad_value
        self.skipped: Tensor
        self.register_buffer("skipped", torch.zeros((), dtype=torch.int64))
        self.guard = StepGuard()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.policy = policy(policy_shapes(env))
            self.flow = StateFlow(env, policy) if self.loss.uses_states else None
            self.backward_policy: BackwardPolicy | None = (
                policy(backward_shapes(env)) if backward_policy == "learned" else None
            )
            if prior is not None:
                prior.prepare(env, policy(policy_shapes(env)))
        if backward_policy == "uniform" and env.has_own_backward:
            self.backward_policy = UniformBackward()
        self.prior = prior
        self.log_z = torch.nn.Parameter(torch.zeros((), dtype=torch.float64), requires_grad=self.loss.learns_log_z)
        self.replay, self.data_set = replay, data_set
        if replay is not None:
            replay.prepare(env)
        of_others = replay is not None or data_set is not None
        self._trains_on_samples_alone = not (of_others or self.loss.uses_states or self.loss.uses_edges)
        self.batch_size = batch_size
        self.lr, self.lr_log_z, self.lr_final = lr, lr_log_z, lr_final
        self.seed, self.start_from = seed, start_from
        self.renewed: set[str] = set()
        """Which of ``proxy``, ``reward`` and ``prior`` the user changes on loading; checkpoints do not set them."""
        self._is_resumed = False
        self._generator: Generator | None = None
        self._generator_state: Tensor | None = None
        self._correlation = PearsonCorrCoef()
        self._means = torch.nn.ModuleDict(
            {name: MeanMetric() for name in (*self._mean_names(), "log_reward_mean", "log_prior_mean", "loss")}
        )

    # Sampling

    @torch.no_grad()
    def evaluate(self, states: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Evaluate the proxies and the reward for n terminal states.

        Args:
            states: (n, state_size) terminal states.

        Returns:
            properties (n, columns), log R (n,) without the prior, and its parts by property, each (n,). With
            ``on_bad_value`` ``skip``, log R is NaN for objects with a prediction that is not finite.

        Raises:
            InputError: if a proxy returns a wrong shape or type, or, with ``on_bad_value`` ``stop``, a value that is
                not finite.
        """
        return self._judge(self.env.decode(states), states)

    def log_rewards(self, states: Tensor) -> Tensor:
        """(n,) log R, with the prior, of any number of terminal states (n, state_size); in batches, to bound memory.

        A model that has learned from known objects alone has log p(x) here.
        """
        if self.loss.uses_known_alone:
            stream = generator(self.seed, "likelihood", device=states.device)
            return log_likelihood(self.env, self.policy, states, stream, backward=self.backward_policy).log_p
        own = [self.evaluate(part)[1] for part in states.split(BATCH) if len(part)]
        log_reward = torch.cat([states.new_zeros(0), *own])
        return log_reward if self.prior is None else log_reward + self.log_priors(states) / self.prior.temperature

    def log_priors(self, states: Tensor) -> Tensor:
        """(n,) float64 log p_prior of terminal states (n, state_size); in a tree exact, otherwise an estimate."""
        assert self.prior is not None
        stream = generator(self.seed, "prior", device=states.device)
        return self.prior.log_p(self.env, states, stream, self.backward_policy)

    def _add_prior(
        self, trajectories: Trajectories, log_reward: Tensor, log_pb: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(n,) log R of sampled trajectories with the prior, and if there is a prior ``log_prior`` for the outputs."""
        if self.prior is None:
            return log_reward, {}
        log_prior = self.prior.log_trajectories(self.env, trajectories) - log_pb
        return log_reward + log_prior / self.prior.temperature, {"log_prior": log_prior}

    @torch.no_grad()
    def _judge(self, objects: Any, states: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        def describe(row: int) -> str:
            return self.env.describe(states[row : row + 1])[0]

        predictions, good = self.proxies.predict(objects, len(states), states.device, describe)
        if not good.all() and self.on_bad_value == "stop":
            row = int((~good).nonzero()[0])
            raise InputError(
                f"{self.proxies.complaint(predictions, row, describe(row))}; every value must be finite "
                "(model.on_bad_value: skip leaves such objects out)"
            )
        parts = self.reward.parts(predictions)
        log_reward = self.reward.total(parts) if parts else states.new_zeros(len(states))
        log_reward = log_reward.masked_fill(~good, float("nan"))
        return self.proxies.matrix(predictions, states), log_reward, parts

    def sample(self, n: int, generator: Generator) -> dict[str, Tensor]:
        """Sample n objects with the current policy; the class docstring describes the dictionary that is returned."""
        trajectories, log_pf = sample_forward(self.env, self.policy, n, generator, backward=self.backward_policy)
        properties, log_reward, _ = self.evaluate(trajectories.states)
        log_reward, log_prior = self._add_prior(trajectories, log_reward, trajectories.log_pb)
        if self.loss.uses_known_alone:
            # What was learned from known objects is what these samples are compared with.
            log_reward = log_pf - trajectories.log_pb
        return {
            "states": trajectories.states,
            "properties": properties,
            "log_reward": log_reward,
            "log_pf": log_pf,
            "log_pb": trajectories.log_pb,
            **log_prior,
        }

    def _mean_names(self) -> list[str]:
        return [f"{column.name}_mean" for column in self.proxies.columns]

    # Training

    def training_step(self, batch: int, batch_idx: int) -> dict[str, Tensor]:
        stream = self._training_generator()
        before, skipped = stream.get_state(), self.skipped.clone()
        try:
            return self._known_step(stream) if self.loss.uses_known_alone else self._training_step(stream)
        except Exception:
            # A checkpoint that is saved after the error will repeat this step with the same random numbers.
            stream.set_state(before)
            self.skipped.copy_(skipped)
            raise

    def _known_step(self, stream: Generator) -> dict[str, Tensor]:
        """A step with the objects of the data set alone."""
        assert self.data_set is not None
        states, log_reward = self.data_set.sample(stream)
        self.policy.noise = stream
        losses = self.loss(self._balance(self._backward_from(states, stream), log_reward))
        self.policy.noise = None
        self.log("train/loss", mean_over_processes(losses.unsqueeze(1))[0], prog_bar=True)
        # Each process has as many objects, and DDP averages the processes' gradients.
        return {"loss": losses.mean() + (self._nothing() if n_processes() > 1 else 0.0)}

    def _training_step(self, stream: Generator) -> dict[str, Tensor]:
        epsilon, temperature = self.exploration.at(self.global_step)
        sampled = sample_to_learn(
            self.env,
            self.policy,
            self.batch_size,
            stream,
            epsilon,
            temperature,
            backward=self.backward_policy,
            keep_states=self._keep_states,
            keep_gradients=self._trains_on_samples_alone,
        )
        properties, log_reward, parts = self.evaluate(sampled.states)
        good = torch.isfinite(log_reward)
        if not good.all():
            sampled, properties, log_reward = sampled.select(good), properties[good], log_reward[good]
            parts = {name: part[good] for name, part in parts.items()}
            self.skipped += (~good).sum()
        share_at_floor = self.guard.check_rewards(log_reward, math.log(self.reward.floor))
        # With a prior, P_B is fixed or does not matter, so its value at sampling is used.
        log_reward, log_prior = self._add_prior(sampled, log_reward, sampled.log_pb)
        batches, rewards, places = [sampled], [log_reward], None
        if self.replay is not None:
            places, states, replayed = self.replay.sample(stream)
            if len(states):
                batches.append(self._backward_from(states, stream))
                rewards.append(replayed)
        if self.data_set is not None:
            states, known = self.data_set.sample(stream)
            batches.append(self._backward_from(states, stream))
            rewards.append(known)
        count = self._count(sum(map(len, batches)))
        balance = self._balance(
            Trajectories.cat(batches) if len(batches) > 1 else sampled,
            torch.cat(rewards) if len(rewards) > 1 else log_reward,
        )
        if self.global_step == 0 or not self.loss.learns_log_z:
            self._estimate_log_z(balance)
            if self.global_step == 0 and self.flow is not None:
                self.flow.start_at(balance)
                balance = self._balance(balance.trajectories, balance.log_reward)
        # With several processes, one may have nothing to train on; it must still take part in means over all processes.
        is_empty = not len(balance.log_reward) and self.loss.learns_log_z
        losses = balance.log_reward if is_empty else self.loss(balance)
        loss = losses.mean()
        if n_processes() > 1:
            # The mean over the trajectories of all processes; DDP averages the processes' gradients.
            loss = losses.sum() * (n_processes() / count) + self._nothing()
        n = len(sampled)
        if self.replay is not None and places is not None:
            self.replay.update(places, losses.detach()[n : n + len(places)])
            self.replay.add(sampled.states, log_reward, losses.detach()[:n])
        self._log_step(losses, properties, log_reward, log_prior, share_at_floor, parts)
        return {
            "loss": loss,
            "states": sampled.states,
            "properties": properties,
            "log_reward": log_reward,
            "log_pf": balance.log_pf.detach()[:n],
            **log_prior,
        }

    def _estimate_log_z(self, balance: Balance) -> None:
        """Set log Z to its estimate from a batch; with its learning rate alone, log Z would need many steps."""
        estimates = balance.log_reward + balance.log_pb.detach() - balance.log_pf.detach()
        estimate = mean_over_processes(estimates.unsqueeze(1))[0]
        self.log_z.data.copy_(torch.where(estimate.isfinite(), estimate, self.log_z.data))

    def _count(self, own: int) -> Tensor | int:
        """Number of trajectories of all processes in this step; ``own`` is the number of this process."""
        count: Tensor | int = own * n_processes()
        # The processes have different numbers only if objects can be skipped.
        if self.on_bad_value == "skip" and n_processes() > 1:
            count = sum_over_processes(torch.tensor(own, device=self.device))
        if not count:
            raise InputError(
                "on_bad_value: skip leaves nothing to train on; no object of this step has finite predictions"
            )
        return count

    def _nothing(self) -> Tensor:
        """Zero, as a function of all parameters: DDP also waits for gradients of heads that no trajectory visited."""
        learned = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return 0.0 * torch.stack([parameter.view(-1)[0].to(torch.float64) for parameter in learned]).sum()

    def _log_step(
        self,
        losses: Tensor,
        properties: Tensor,
        log_reward: Tensor,
        log_prior: dict[str, Tensor],
        share_at_floor: Tensor,
        parts: dict[str, Tensor],
    ) -> None:
        """Log the means of a training step over the trajectories of all processes."""
        columns = {f"{column.name}_mean": column.is_property for column in self.proxies.columns}
        values = {"log_reward_mean": log_reward, "share_at_floor": share_at_floor.expand(len(log_reward))}
        values |= {f"{name}_mean": value for name, value in log_prior.items()}
        if len(parts) > 1:
            values |= {f"log_reward_of_{name}_mean": part for name, part in parts.items()}
        means = mean_over_processes(torch.cat([properties, torch.stack(list(values.values()), 1)], 1))
        self.log("train/loss", mean_over_processes(losses.unsqueeze(1))[0], prog_bar=True)
        self.log("train/log_z", self.log_z, prog_bar=True)
        for name, mean in zip([*columns, *values], means, strict=True):
            self.log(f"train/{name}", mean, prog_bar=columns.get(name, False))
        if self.replay is not None:
            size = torch.full((), float(len(self.replay)), device=self.device)
            self.log("train/replay_size", sum_over_processes(size))
        if self.on_bad_value == "skip":
            self.log("train/skipped", sum_over_processes(self.skipped).float())

    def _backward_from(self, states: Tensor, stream: Generator) -> Trajectories:
        return sample_backward(self.env, states, stream, self.backward_policy, self._keep_states)

    def _balance(self, trajectories: Trajectories, log_reward: Tensor) -> Balance:
        partial = self._log_partial if self.loss.forward_looking else None
        return Balance(
            self.env,
            self.policy,
            trajectories,
            log_reward,
            self.log_z,
            self.flow,
            self.backward_policy,
            partial,
            self.prior,
        )

    def _log_partial(self, states: Tensor) -> Tensor:
        """(m,) log R of intermediate states; 0 where a prediction is not finite: the network alone then gives log F."""
        _, log_reward, _ = self._judge(self.env.decode_partial(states), states)
        return torch.where(log_reward.isfinite(), log_reward, 0.0)

    def setup(self, stage: str) -> None:
        check_accelerator(self.trainer.strategy.root_device.type)
        # By default, DDP copies all buffers from one process to the others in every step. Tables are equal everywhere,
        # and each process must keep its own replay buffer.
        names = [name for name, _ in self.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, names)

    def on_fit_start(self) -> None:
        if self.start_from is not None and not self._is_resumed:
            start_networks(self, self.start_from)
        if self.prior is not None:
            self.prior.check()
        if self.data_set is not None:
            # The likelihood needs no rewards.
            known_alone = self.loss.uses_known_alone
            self.data_set.load(self.env, _zeros if known_alone else self.log_rewards)
            rank_zero_info(self.data_set.summary())

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        learned = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.log("train/gradient_norm", self.guard.check_gradients(learned, self.global_step))
        self.log_dict({f"train/{name}": count for name, count in self.guard.counts().items()})

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.Adam(list(self._parameter_groups()), lr=self.lr, fused=True)
        steps = self.trainer.max_steps
        if steps is None or steps < 1:
            return optimizer
        cosine = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: cosine_fall(step, steps, self.lr_final),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}

    def _parameter_groups(self) -> Iterator[dict[str, Any]]:
        networks = {"policy": self.policy, "flow": self.flow, "backward_policy": self.backward_policy}
        for name, network in networks.items():
            if network is not None and not isinstance(network, UniformBackward):
                yield {"params": list(network.parameters()), "lr": self.lr, "name": name}
        if self.loss.learns_log_z:
            yield {"params": [self.log_z], "lr": self.lr_log_z, "name": "log_z"}

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
        means = dict(zip(self._mean_names(), samples["properties"].unbind(1), strict=True))
        if self.loss.uses_known_alone:
            self._log_means(means, stage)
            return samples
        # In a tree, log_pf - log_pb is log p(x); otherwise it is an estimate of log p(x) from one trajectory.
        log_p = samples["log_pf"] - samples["log_pb"]
        log_reward = samples["log_reward"]
        if len(log_p):
            self._correlation.update(log_p.float(), log_reward.float())
        # Always the loss of trajectory balance: it is zero for a perfect sampler, and with it, runs that minimise
        # different losses can be compared.
        loss = trajectory_balance(self.log_z, samples["log_pf"], samples["log_pb"], log_reward)
        if self.prior is not None:
            means["log_prior_mean"] = samples["log_prior"]
        self._log_means(means | {"log_reward_mean": log_reward, "loss": loss}, stage)
        self.log(f"{stage}/log_p_log_reward_correlation", self._correlation, on_step=False, on_epoch=True)
        return samples

    def _log_means(self, values: Mapping[str, Tensor], stage: str) -> None:
        for name, value in values.items():
            metric = self._means[name]
            assert isinstance(metric, MeanMetric)
            if len(value):
                metric.update(value)
            self.log(f"{stage}/{name}", metric, on_step=False, on_epoch=True)

    def on_validation_epoch_end(self) -> None:
        """Log how surprising the objects of the data set's validation are, beside the policy that is always uniform."""
        if self.data_set is None or not len(self.data_set.held_out):
            return
        own = self.data_set.held_out[self.global_rank :: n_processes()]
        stream = generator(self.seed, "held out", self.global_rank, device=self.device)
        found = surprisal(self.env, {"": self.policy, "uniform_": None}, own, stream, self.backward_policy)
        for name, values in found.items():
            # All processes have the same values.
            self.log_dict({f"val/held_out/{name}{key}": value for key, value in values.values().items()})

    def predict_step(self, batch: Ticket, batch_idx: int) -> dict[str, Tensor]:
        """Sample the objects of one ticket, from the ticket's own random stream."""
        if not batch.n:
            states, nothing = self.env.initial_states(0), torch.zeros(0, dtype=torch.float64, device=self.device)
            names = ("log_reward", "log_pf", "log_pb") + (() if self.prior is None else ("log_prior",))
            values = dict.fromkeys(names, nothing)
            return {"states": states, "properties": nothing.view(0, len(self.proxies.columns)), **values}
        # Always draw a full ticket, so that a request for fewer samples gives the first ones of a larger request.
        samples = self.sample(batch.size, generator(*batch.stream, device=self.device))
        return {name: value[: batch.n] for name, value in samples.items()}

    def on_validation_start(self) -> None:
        if self.trainer.state.fn != "fit":
            self._adapt()

    def on_test_start(self) -> None:
        self._adapt()

    def on_predict_start(self) -> None:
        self._adapt()

    def _adapt(self) -> None:
        """Fine-tune the model if the Trainer's data module requests it."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, Samples) and data.finetune_steps:
            self.finetune(self.env, data.finetune_steps, data.finetune_lr, data.seed)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def finetune(self, env: Environment, steps: int, lr: float, seed: int) -> list[float]:
        """Train for some steps in another environment that fits the same policy, with the model's own loss and reward.

        Only the networks and log Z change, and only in memory. The data set and the replay buffer are not used, because
        their objects may lie outside of the environment. log Z starts again from the estimate of the first batch. The
        probability of a uniformly random decision is 0.1 at the first step and falls linearly to 0.

        Args:
            env: the environment for fine-tuning; it becomes the model's environment.
            steps: number of steps; each step has as many trajectories as a training step.
            lr: learning rate of the networks at the start; log Z starts with the model's ``lr_log_z``. Both fall along
                half a cosine to 0.01 of their starting values.
            seed: seed of the random stream ``(seed, "finetune")``.

        Returns:
            the loss of each step.

        Raises:
            InputError: if a loss is not finite, or if no object of a step has finite predictions.
        """
        self.env = env
        stream = generator(seed, "finetune", device=self.device)
        groups = list(self._parameter_groups())
        for group in groups:
            group["lr"] = lr if group["name"] != "log_z" else self.lr_log_z
        optimizer = torch.optim.Adam(groups)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: cosine_fall(step, steps, FINETUNE_LR_FINAL)
        )
        losses = []
        for step in range(steps):
            trajectories, _ = sample_forward(
                env,
                self.policy,
                self.batch_size,
                stream,
                FINETUNE_EPSILON * (1 - step / steps),
                backward=self.backward_policy,
                keep_states=self._keep_states,
            )
            _, log_reward, _ = self.evaluate(trajectories.states)
            good = torch.isfinite(log_reward)
            if not good.any():
                raise InputError(
                    "finetune_steps: no object of a step has finite predictions, so there is nothing to learn from"
                )
            if not good.all():
                trajectories, log_reward = trajectories.select(good), log_reward[good]
            log_reward, _ = self._add_prior(trajectories, log_reward, trajectories.log_pb)
            balance = self._balance(trajectories, log_reward)
            if step == 0 or not self.loss.learns_log_z:
                self._estimate_log_z(balance)
            loss = self.loss(balance).mean()
            if not torch.isfinite(loss):
                raise InputError(f"finetune_lr: {lr} makes the loss {loss.item()} at step {step}; choose a lower one")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        return losses

    # Random streams and checkpoints

    def _training_generator(self) -> Generator:
        if self._generator is None:
            self._generator = generator(self.seed, "train", self.global_rank, device=self.device)
        return self._generator

    def on_train_start(self) -> None:
        # Restored here and not on loading, because code that runs in between may draw random numbers.
        if self._generator_state is not None:
            self._training_generator().set_state(self._generator_state)
            self._generator_state = None

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, trust: bool = False, **settings: Any
    ) -> GFlowNet:
        """Load a model with its weights from a checkpoint, on the CPU and in evaluation mode.

        Args:
            checkpoint_path: file that a run has written; a compact checkpoint is allowed.
            trust: whether the settings in the checkpoint may name classes that are not part of this package or of an
                installed plugin. To use such a class runs its code.
            settings: settings of the model that replace those in the checkpoint, such as ``reward={...}``. Files that
                they name are not compared with those of the training.

        Returns:
            the model.

        Raises:
            InputError: if the file is missing or damaged, or its settings or weights do not fit this version,
                or the settings name classes that are not trusted, or a file has another content than in the training.
        """
        checkpoint = read_checkpoint(checkpoint_path)
        stored = settings_in(checkpoint, checkpoint_path)
        own = {text for _, text in texts(settings)}
        model = merged([stored.settings["model"], settings])
        if not trust:
            refuse_foreign(stored._replace(settings={"model": model}), checkpoint_path, own)
        refuse_changed(stored.files, without_data_set(model), checkpoint_path, own)
        module: GFlowNet = instantiate({"model": model}, {"model": cls}, f"ckpt_path: {checkpoint_path}").model
        module.renewed = renewed(stored, model, settings)
        module.on_load_checkpoint(checkpoint)
        try:
            module.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            raise InputError(
                f"ckpt_path: the weights in {checkpoint_path}, written by version {stored.version}, do not fit its "
                f"settings: {error}"
            ) from None
        return module.eval()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[NAMES] = space_names(self.env)
        states: list[Any] = [self._training_generator().get_state()]
        if self.trainer.world_size > 1:
            states = _gathered(states[0], self.trainer.world_size)
            # Each process has its own replay buffer and its own count of skipped objects.
            own = {name: checkpoint["state_dict"][name] for name in self._own_names(checkpoint)}
            checkpoint["own_states"] = _gathered(own, self.trainer.world_size)
        checkpoint["generator_states"] = states

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._is_resumed = True
        state = checkpoint["state_dict"]
        for name, value in self.guard.state_dict(prefix="guard.").items():
            state.setdefault(name, value)  # version 0.1.0 did not store these counts
        for prefix in (VALUES_OF_FILES[name] for name in self.renewed):
            for name in [name for name in state if name.startswith(prefix)]:
                del state[name]
            state |= {name: value for name, value in self.state_dict().items() if name.startswith(prefix)}
        bad = [name for name in state if name.startswith(NETWORKS) and not state[name].isfinite().all()]
        if bad:
            raise InputError(
                f"ckpt_path: the weights {bad[0]} are not finite, because training failed; use an older checkpoint"
            )
        states = checkpoint.get("generator_states", [])
        if self.global_rank < len(states):
            self._generator_state = states[self.global_rank]
        own = checkpoint.get("own_states", [])
        if self.global_rank < len(own):
            checkpoint["state_dict"] |= own[self.global_rank]

    @staticmethod
    def _own_names(checkpoint: dict[str, Any]) -> list[str]:
        """Names of the entries of the state that differ between processes."""
        return [name for name in checkpoint["state_dict"] if name == "skipped" or name.startswith("replay.")]


def _zeros(states: Tensor) -> Tensor:
    """(n,) zeros, for objects without a reward."""
    return states.new_zeros(len(states))


def without_data_set(model: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a model that are used outside of training: a data set is only read in training."""
    return {name: value for name, value in model.items() if name != "data_set"}


def check_accelerator(name: str) -> None:
    """Check that an accelerator has float64.

    Raises:
        InputError: if it does not.
    """
    if name == "mps":
        raise InputError(
            "trainer.accelerator: mps is not allowed; it has no float64, which states and log-probabilities need; use "
            "cpu, or gpu with CUDA"
        )


def _gathered(value: Any, world_size: int) -> list[Any]:
    """The values of all processes, in the order of their ranks; every process must call this."""
    values: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(values, value)
    return values
