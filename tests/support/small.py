"""Settings that train in a second, and a table of three crystals."""

from pathlib import Path

import yaml

THREE_CRYSTALS = {
    "formula": ["Na4 Cl4", "Fe2", "Si3 O6"],
    "space_group": [225, 229, 152],
    "a": [5.69, 2.87, 4.92],
    "b": [5.69, 2.87, 4.92],
    "c": [5.69, 2.87, 5.43],
    "alpha": [90.0, 90.0, 90.0],
    "beta": [90.0, 90.0, 90.0],
    "gamma": [90.0, 90.0, 120.0],
}
"""Columns of a table of crystals: rock salt, iron and quartz."""


def small_config(directory: Path, **env) -> dict:
    """A crystal run of a few steps; ``env`` changes settings of the environment."""
    return {
        "trainer": {
            "max_steps": 3,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": {"class_path": "TensorBoardLogger", "init_args": {"save_dir": str(directory), "name": "small"}},
            "callbacks": [
                {"class_path": "crystalgfn.callbacks.Checkpoints", "init_args": {"every_n_steps": 3}},
            ],
        },
        "model": {
            "env": {
                "class_path": "Crystal",
                "init_args": {"space_groups": [2, "221-225"], "elements": ["Li", "O", "F"], "max_elements": 2, **env},
            },
            "proxy": {"class_path": "Density"},
            "reward": {"class_path": "Boltzmann", "init_args": {"beta": -0.5}},
            "policy": {"class_path": "MLP", "init_args": {"hidden": [16]}},
            "batch_size": 8,
        },
        "data": {"num_samples": 12, "num_val_samples": 10},
    }


def write_config(directory: Path, config: dict) -> Path:
    """The config as a file in the directory."""
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def checkpoint_of(directory: Path, name: str = "small", version: int = 0) -> Path:
    """The last checkpoint of a run."""
    return directory / name / f"version_{version}" / "checkpoints" / "last.ckpt"
