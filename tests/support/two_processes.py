"""Runs of two processes on the CPU, forked from the test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.strategies import DDPStrategy

from crystalgfn.gflownet.module import GFlowNet


class Recorder(Callback):
    """Saves what each process saw in one training step as ``<rank>.pt``.

    Args:
        directory: where to save.
        step: the step.
    """

    def __init__(self, directory: Path, step: int) -> None:
        self.directory, self.step = directory, step
        self.seen: dict[str, Any] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: GFlowNet, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            self.seen["state_dict"] = {k: v.clone() for k, v in pl_module.state_dict().items()}
            balance = pl_module._balance

            def recording(trajectories: Any, log_reward: Any) -> Any:
                self.seen |= {"trajectories": trajectories, "log_reward": log_reward}
                return balance(trajectories, log_reward)

            pl_module._balance = recording

    def on_after_backward(self, trainer: Trainer, pl_module: GFlowNet) -> None:
        if trainer.global_step == self.step:
            del pl_module._balance
            self.seen["gradients"] = {n: p.grad for n, p in pl_module.named_parameters() if p.requires_grad}
            self.seen["log_z"] = pl_module.log_z.detach().clone()
            self.seen["metrics"] = {k: v.clone() for k, v in trainer.callback_metrics.items()}
            torch.save(self.seen, self.directory / f"{trainer.global_rank}.pt")


def trainer(processes: int = 2, **settings: Any) -> Trainer:
    """A quiet trainer; it forks where several processes are asked for."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    strategy = DDPStrategy(start_method="fork") if processes > 1 else "auto"
    settings = {"enable_checkpointing": False, **quiet, **settings}
    return Trainer(accelerator="cpu", devices=processes, strategy=strategy, **settings)


def recorded(directory: Path) -> list[dict[str, Any]]:
    """What a `Recorder` saved, by rank."""
    return [torch.load(directory / f"{rank}.pt", weights_only=False) for rank in range(2)]
