"""A checkpoint from a stranger runs no code: what it may name, in every place of its settings and for every command."""

import sys
from pathlib import Path

import pytest
import torch
import yaml
from small import checkpoint_of, small_config

import crystalgfn as cg
from crystalgfn.cli import main
from crystalgfn.errors import InputError
from crystalgfn.plugins import foreign_classes

QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
LOCAL = {"class_path": "stranger.Thing"}
HOSTILE = {
    "a function as the policy": ("model", {"policy": {"class_path": "os.system"}}),
    "a function as the policy, as text": ("model", {"policy": "os.system"}),
    "a process as the policy": (
        "model",
        {"policy": {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "mark"]}}},
    ),
    "a local environment": ("model", {"env": LOCAL}),
    "a local proxy": ("model", {"proxy": LOCAL}),
    "a local proxy as text": ("model", {"proxy": "stranger.Thing"}),
    "a local proxy in a list": ("model", {"proxy": [{"class_path": "Density"}, LOCAL]}),
    "a local proxy in a proxy": (
        "model",
        {"proxy": {"class_path": "OfStage", "init_args": {"stage": "a", "proxy": LOCAL}}},
    ),
    "a local proxy in a proxy, as text": (
        "model",
        {"proxy": {"class_path": "OfStage", "init_args": {"stage": "a", "proxy": "stranger.Thing"}}},
    ),
    "a local reward": ("model", {"reward": LOCAL}),
    "a local reward in a product": (
        "model",
        {"reward": {"class_path": "Product", "init_args": {"rewards": {"density": LOCAL}}}},
    ),
    "a local loss": ("model", {"loss": LOCAL}),
    "a local buffer": ("model", {"replay": LOCAL}),
    "a local data set": ("model", {"data_set": LOCAL}),
    "another class as a buffer": ("model", {"replay": {"class_path": "subprocess.Popen"}}),
    "a local callback": ("trainer", {"callbacks": [LOCAL]}),
    "a function as a callback": ("trainer", {"callbacks": [{"class_path": "os.system"}]}),
    "a local logger": ("trainer", {"logger": LOCAL}),
    "a local strategy": ("trainer", {"strategy": "stranger.Thing"}),
    "a module that looks like Lightning's": ("trainer", {"callbacks": [{"class_path": "pytorch_lightning_x.Thing"}]}),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint of a short run."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.yaml").write_text(yaml.safe_dump(small_config(folder)))
    assert main(["fit", "--config", str(folder / "config.yaml"), "--trainer.max_steps", "1", *QUIET]) == 0
    return checkpoint_of(folder)


@pytest.fixture
def hostile(run, tmp_path, monkeypatch):
    """Writes a checkpoint whose settings differ, into the current folder, which has a module that leaves a mark."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stranger.py").write_text(
        "from pathlib import Path\nPath('mark').touch()\n\n\nclass Thing:\n    pass\n\n\nThing.latest = 1\n"
    )

    def write(part, changes):
        content = torch.load(run, weights_only=True)
        settings = yaml.safe_load(content["crystalgfn"]["config"])
        settings[part] |= changes
        content["crystalgfn"] = {"version": "0.2.0", "config": yaml.safe_dump(settings)}
        torch.save(content, "hostile.ckpt")

    yield write
    assert not Path("mark").exists(), "code of the checkpoint ran"
    assert "stranger" not in sys.modules


@pytest.mark.parametrize("name", HOSTILE)
def test_every_place(name, hostile, capsys):
    hostile(*HOSTILE[name])
    assert main(["fit", "--ckpt_path", "hostile.ckpt", "--trainer.max_steps", "2", *QUIET]) == 2
    message = capsys.readouterr().err
    assert "is not part of crystalgfn or of an installed plugin" in message and "--trust-checkpoint" in message


@pytest.mark.parametrize("command", ["predict", "validate", "test", "likelihood"])
@pytest.mark.parametrize("name", ["a process as the policy", "a local proxy"])
def test_every_command(command, name, hostile, capsys):
    hostile(*HOSTILE[name])
    Path("t.csv").write_text("x0,x1\n1,1\n")
    extra = ["t.csv", "--out", "o.csv"] if command == "likelihood" else QUIET
    assert main([command, *extra, "--ckpt_path", "hostile.ckpt"]) == 2
    assert "--trust-checkpoint" in capsys.readouterr().err


def test_from_python(hostile):
    hostile(*HOSTILE["a local proxy"])
    with pytest.raises(InputError, match=r"names 'stranger\.Thing' in model\.proxy"):
        cg.load("hostile.ckpt")
    with pytest.raises(InputError, match="trust=True"):
        cg.GFlowNet.load_from_checkpoint("hostile.ckpt")


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "Density", "crystalgfn.crystal.crystals.Crystals"])
def test_a_config_names_a_policy_or_is_refused(path, tmp_path, monkeypatch, capsys):
    """In a config of one's own a class may be anybody's, but it is one of its place."""
    monkeypatch.chdir(tmp_path)
    config = small_config(tmp_path)
    config["model"]["policy"] = {"class_path": path, "init_args": {"args": ["touch", "mark"]}}
    Path("config.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", "config.yaml", *QUIET]) == 2
    assert "policy" in capsys.readouterr().err and not Path("mark").exists()


def test_the_users_own_class_is_trusted_on_request(run, tmp_path, monkeypatch, capsys):
    """A proxy of one's own: its checkpoint needs the flag, unless the user's config names the class too."""
    monkeypatch.chdir(tmp_path)
    Path("own_proxy_here.py").write_text(
        "from crystalgfn import Proxy\n\n\nclass Size(Proxy):\n    name = 'total'\n\n"
        "    def forward(self, objects):\n        return objects.n_atoms.double()\n"
    )
    config = small_config(tmp_path)
    config["model"]["proxy"] = {"class_path": "own_proxy_here.Size"}
    config["model"]["reward"] = {"class_path": "Boltzmann", "init_args": {"beta": 1.0}}
    Path("config.yaml").write_text(yaml.safe_dump(config))
    steps = ["--trainer.max_steps", "1"]
    assert main(["fit", "--config", "config.yaml", *steps, *QUIET]) == 0
    checkpoint = str(checkpoint_of(tmp_path))
    assert main(["predict", "--ckpt_path", checkpoint, *QUIET]) == 2
    assert "own_proxy_here.Size" in capsys.readouterr().err and not Path("samples.csv").exists()
    assert main(["predict", "--ckpt_path", checkpoint, "--trust-checkpoint", "--data.num_samples", "5", *QUIET]) == 0
    assert main(["fit", "--config", "config.yaml", "--ckpt_path", checkpoint, "--trainer.max_steps", "2", *QUIET]) == 0
    assert len(cg.load(checkpoint, trust=True).sample(3)) == 3


def test_what_is_known():
    settings = {
        "model": {
            "env": {"class_path": "crystalgfn.gflownet.envs.HyperGrid", "init_args": {"height": 3}},
            "proxy": [{"class_path": "FormationEnergy", "init_args": {"weights": "own.pt"}}],
            "policy": {"class_path": "crystalgfn.gflownet.policies.MLP"},
            "replay": {"class_path": "crystalgfn.gflownet.replay.ReplayBuffer"},
            "start_from": "logs/run/last.ckpt",
        },
        "trainer": {
            "callbacks": [
                {"class_path": "crystalgfn.callbacks.Checkpoints"},
                {"class_path": "pytorch_lightning.callbacks.LearningRateMonitor"},
            ],
            "logger": {"class_path": "TensorBoardLogger"},
            "strategy": "ddp_find_unused_parameters_true",
        },
        "data": {"out": "samples.csv"},
        "threads": 1,
    }
    assert foreign_classes(settings) == []
