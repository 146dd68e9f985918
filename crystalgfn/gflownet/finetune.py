"""Adapts a trained policy to a restriction, for the samples of one command only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from crystalgfn.gflownet.data import Samples
from crystalgfn.errors import InputError
from crystalgfn.random import generator
from crystalgfn.gflownet.rollout import sample_forward
from crystalgfn.gflownet.schedules import cosine_fall

if TYPE_CHECKING:
    from crystalgfn.gflownet.envs.base import Environment
    from crystalgfn.gflownet.module import GFlowNet

EPSILON = 0.1
"""Probability of a uniformly random decision at the first step; it falls linearly to 0."""

LR_FINAL = 0.01
"""The learning rates fall along half a cosine to this share of their start."""


def adapt(module: GFlowNet) -> None:
    """Do the fine-tuning that the Trainer's data module asks for; call it when the weights are loaded."""
    data = getattr(module.trainer, "datamodule", None)
    if isinstance(data, Samples) and data.finetune_steps:
        finetune(module, module.env, data.finetune_steps, data.finetune_lr, data.seed)


@torch.inference_mode(False)
@torch.enable_grad()
def finetune(module: GFlowNet, env: Environment, steps: int, lr: float, seed: int) -> list[float]:
    """Train a model for some steps in another environment of the same policy, with its own loss and reward.

    Only the policy (with the networks beside it) and log Z change, in memory. Known objects and replay have no part in
    it: they may lie outside of the environment. log Z starts anew, at the first batch's estimate.

    Args:
        module: the model; its ``env`` becomes the one that is given.
        env: the environment to adapt to.
        steps: number of steps, each on as many trajectories as in training.
        lr: learning rate of the networks at the start; log Z has the model's own.
        seed: of the random stream ``(seed, "finetune")``.

    Returns:
        the loss of each step.

    Raises:
        InputError: if a loss is not finite.
    """
    module.env = env
    stream = generator(seed, "finetune", device=module.device)
    groups = list(module._parameter_groups())
    for group in groups:
        group["lr"] = lr if group["name"] != "log_z" else module.lr_log_z
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: cosine_fall(step, steps, LR_FINAL),
    )
    losses = []
    for step in range(steps):
        epsilon = EPSILON * (1 - step / steps)
        trajectories, _ = sample_forward(
            env,
            module.policy,
            module.batch_size,
            stream,
            epsilon,
            backward=module.backward_policy,
            keep_states=module.loss.uses_edges,
        )
        _, log_reward, _ = module.evaluate(trajectories.states)
        good = torch.isfinite(log_reward)
        if not good.any():
            raise InputError("finetune_steps: no value of a step is finite, so there is nothing to learn from")
        if not good.all():
            trajectories, log_reward = trajectories.select(good), log_reward[good]
        balance = module._balance(trajectories, log_reward)
        if step == 0 or not module.loss.learns_log_z:
            estimate = balance.log_reward + balance.log_pb.detach() - balance.log_pf.detach()
            module.log_z.data.fill_(estimate.mean())
        loss = module.loss(balance).mean()
        if not torch.isfinite(loss):
            raise InputError(f"finetune_lr: {lr} makes the loss {loss.item()} at step {step}; choose a lower one")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses
