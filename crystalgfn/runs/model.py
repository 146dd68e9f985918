"""Use a trained model from Python: sample objects, restrict the space, place atoms in crystals."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crystalgfn.callbacks.sample_writer import samples_frame
from crystalgfn.checks import at_least
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.errors import InputError
from crystalgfn.gflownet.checkpoint_files import find_checkpoint
from crystalgfn.gflownet.data import Tickets
from crystalgfn.gflownet.envs import Environment
from crystalgfn.gflownet.module import GFlowNet
from crystalgfn.gflownet.proxies import ProxySet
from crystalgfn.runs.runner import run
from crystalgfn.settings import find_config, find_file, merged, read_config, read_yaml

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure

    from crystalgfn.atoms.tables import BuiltCrystals


@dataclass(frozen=True)
class Model:
    """A trained model.

    Attributes:
        module: the `GFlowNet` with its environment, proxies, reward and policy.
        checkpoint: the file that the model was loaded from or that training wrote; None if there is no file.
    """

    module: GFlowNet
    checkpoint: Path | None = None

    def sample(
        self,
        n: int,
        seed: int = 0,
        restrict: Mapping[str, Any] | str | Path | None = None,
        finetune_steps: int = 0,
        finetune_lr: float = 1e-3,
    ) -> SampledObjects:
        """Sample n objects. ``crystalgfn predict`` gives the same samples with the same settings.

        Args:
            n: number of samples. With a larger n, the first samples stay the same.
            seed: seed of the random numbers.
            restrict: restriction of the space: settings by name, such as ``{"elements": ["Fe", "O"]}``, or a YAML file
                with such settings. None for the whole space of the model.
            finetune_steps: training steps in the restricted space before sampling. A copy is trained; this model does
                not change.
            finetune_lr: initial learning rate of these steps.

        Returns:
            the samples, with their properties, log R and log p.

        Raises:
            InputError: if a setting is not allowed, or the restricted space is empty.
        """
        at_least("n", n, 1)
        if finetune_steps and restrict is None:
            raise InputError(f"finetune_steps: {finetune_steps} is not allowed without a restriction; give restrict")
        # Fine-tuning changes a copy.
        module = copy.deepcopy(self.module) if finetune_steps else self.module
        whole = module.env
        env = whole if restrict is None else whole.restricted(read_restriction(restrict))
        try:
            module.env = env
            if finetune_steps:
                module.finetune(env, finetune_steps, finetune_lr, seed)
            with torch.no_grad():
                tickets = Tickets(n, seed, "predict")
                parts = [module.predict_step(tickets[i], i) for i in range(len(tickets))]
        finally:
            module.env = whole
        outputs = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return SampledObjects(env, module.proxies, outputs)


@dataclass(frozen=True)
class SampledObjects:
    """Objects that a model has sampled.

    Attributes:
        env: the environment in which they were sampled.
        proxies: the proxies that predicted their properties.
        outputs: ``states`` (n, state_size), ``properties`` (n, columns), ``log_reward``, ``log_pf`` and ``log_pb``
            (n,), as `GFlowNet` returns them.
    """

    env: Environment
    proxies: ProxySet
    outputs: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.outputs["states"])

    @property
    def objects(self) -> Any:
        """The objects as decoded by the environment, such as `Crystals`."""
        return self.env.decode(self.outputs["states"])

    @property
    def crystals(self) -> Crystals:
        """The objects as crystals.

        Raises:
            InputError: if the model's environment builds something else.
        """
        objects = self.objects
        if not isinstance(objects, Crystals):
            raise InputError(f"the environment {type(self.env).__name__} builds no crystals")
        return objects

    @property
    def log_p(self) -> Tensor:
        """(n,) float64 log p(x): exact in a tree, such as `Crystal`; otherwise an estimate from one trajectory."""
        return self.outputs["log_pf"] - self.outputs["log_pb"]

    @property
    def log_reward(self) -> Tensor:
        """(n,) float64 log R(x)."""
        return self.outputs["log_reward"]

    @property
    def log_prior(self) -> Tensor:
        """(n,) float64 log p_prior(x), which `log_reward` contains.

        Raises:
            InputError: if the model has no prior.
        """
        if "log_prior" not in self.outputs:
            raise InputError("model.prior: this model has no prior")
        return self.outputs["log_prior"]

    def to_frame(self) -> pd.DataFrame:
        """A table with one row for each object and the columns of ``samples.csv``."""
        return samples_frame(self.env, self.proxies, self.outputs)

    def to_structures(self) -> list[Structure]:
        """Not available, because samples have no atoms.

        Raises:
            InputError: always; use `build` to place atoms.
        """
        raise InputError(
            "these samples have a space group, a composition and a cell, but no atoms; "
            "samples.build().to_structures() places and relaxes them (needs crystalgfn[structures])"
        )

    def build(self, **settings: Any) -> BuiltCrystals:
        """Place atoms in the crystals with a potential, CHGNet by default.

        Args:
            settings: arguments of `crystalgfn.atoms.tables.build_crystals`, such as ``relax``, ``potential`` and
                ``jobs``.

        Returns:
            the structures and a table of results.

        Raises:
            InputError: if the objects are not crystals, a package is missing, or a setting is not allowed.
        """
        from crystalgfn.atoms.tables import build_crystals

        return build_crystals(self.crystals, **settings)


def load(name: str | Path, trust: bool = False) -> Model:
    """Load a trained model.

    Args:
        name: a checkpoint file, the folder of a run, or the name of a model that comes with the package, such as
            ``discovered``.
        trust: whether the checkpoint may name classes that are not part of this package or of an installed plugin, such
            as your own proxy in the current folder. To use such a class runs its code.

    Raises:
        InputError: if there is no such file, the file is damaged, or it names classes that are not trusted.
    """
    path = find_checkpoint(name)
    return Model(GFlowNet.load_from_checkpoint(path, trust), path)


def fit(
    config: str | Path | Mapping[str, Any], *changes: Mapping[str, Any], ckpt_path: str | Path | None = None
) -> Model:
    """Train a model, in the same way as ``crystalgfn fit``.

    Args:
        config: a file, the name of a shipped config such as ``eform.yaml``, or a mapping of settings.
        changes: settings that change the config, such as ``{"trainer": {"max_steps": 100}}``. If a setting is given
            several times, the last one is used.
        ckpt_path: a checkpoint from which training continues, or ``last`` for the newest one of this run.

    Returns:
        the trained model.

    Raises:
        InputError: if a setting or a file cannot be used.
    """
    settings = config if isinstance(config, Mapping) else read_config(find_config(str(config)))
    runner = run("fit", merged([settings, *changes]), ckpt_path)
    written = [getattr(callback, "last_model_path", None) for callback in runner.trainer.checkpoint_callbacks]
    module = runner.model
    assert isinstance(module, GFlowNet)
    return Model(module.eval(), next((Path(path) for path in written if path), None))


def read_restriction(restrict: Mapping[str, Any] | str | Path) -> Mapping[str, Any]:
    """Read the settings of a restriction.

    Args:
        restrict: the settings themselves, a YAML file, or the name of a shipped file such as
            ``restrictions/cubic.yaml``.

    Raises:
        InputError: if the file cannot be read.
    """
    if isinstance(restrict, Mapping):
        return restrict
    return read_yaml(find_file(str(restrict)) or restrict, "restrict")
