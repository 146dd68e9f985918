"""A prior: what is sampled with it is p_prior · f, exactly, for every loss and environment that may have one."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from exact import CrystalSpace, sampling_floor, terminating_distribution, total_variation
from torch import Tensor
from trained import train

from crystalgfn.crystal.envs import Crystal
from crystalgfn.errors import InputError
from crystalgfn.gflownet.balance import policy_shapes
from crystalgfn.gflownet.data_set import DataSet
from crystalgfn.gflownet.envs import Environment, HyperGrid, Sequence
from crystalgfn.gflownet.losses import (
    DetailedBalance,
    FlowMatching,
    ForwardLookingDetailedBalance,
    LogPartitionVariance,
    Loss,
    MaximumLikelihood,
    SubTrajectoryBalance,
    TrajectoryBalance,
)
from crystalgfn.gflownet.module import GFlowNet
from crystalgfn.gflownet.policies import MLP, Policy
from crystalgfn.gflownet.prior import Prior
from crystalgfn.gflownet.proxies import HyperGridModes, Proxy
from crystalgfn.gflownet.replay import ReplayBuffer
from crystalgfn.gflownet.rewards import Boltzmann, Identity
from crystalgfn.gflownet.rollout import log_forward, sample_backward
from crystalgfn.proxies.density import Density
from crystalgfn.random import generator

HIDDEN = (64, 64)


def random_policy(env: Environment, scale: float = 1.0, seed: int = 0) -> Policy:
    """A network of the kind that `train` makes, with random weights in its last layers too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = MLP(policy_shapes(env), HIDDEN)
        for name, parameter in policy.named_parameters():
            if name.split(".")[-2] == "4":
                width = parameter[0].numel() if parameter.dim() > 1 else 1
                torch.nn.init.normal_(parameter, std=scale * width**-0.5)
    return policy


def saved(policy: Policy, path) -> str:
    torch.save({"state_dict": {f"policy.{name}": value for name, value in policy.state_dict().items()}}, path)
    return str(path)


@pytest.fixture
def small_crystals() -> Crystal:
    """Cubic and tetragonal crystals whose weights can be integrated over their cells."""
    return Crystal(
        space_groups=[123, 221, 225], elements=["Li", "O", "F"], max_elements=2, max_atoms=8, max_atoms_per_element=4,
        lengths=(2.0, 12.0), angles=(60.0, 120.0), volume_per_atom=(5.0, 60.0),
    )  # fmt: skip


@torch.no_grad()
def marginal(space: CrystalSpace, policy: Policy, uniform: float = 0.0) -> Tensor:
    """(m,) probability of each (space group, composition) of a space under a policy."""
    trajectories = sample_backward(space.env, space.states, generator("marginal"))
    return log_forward(space.env, policy, trajectories, uniform).exp()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.long
def test_crystals_are_sampled_by_prior_times_f(small_crystals, tmp_path, temperature):
    env = small_crystals
    network = random_policy(env)
    prior = Prior(saved(network, tmp_path / "prior.ckpt"), temperature, uniform=0.0)
    model = train(
        TrajectoryBalance(), 2500, env=env, proxy=Density(), reward=Boltzmann(-0.4), prior=prior, batch_size=256,
        lr=1e-2, lr_final=0.001,
    )  # fmt: skip
    space = CrystalSpace.of(env, lambda crystals: model.reward({"density": Density().predict(crystals)}))
    composition = marginal(space, network).log()
    # The integral of p_prior^(1/T) f over the cells of each (space group, composition).
    weights = []
    for row in range(len(space.states)):
        crystals, legal, a_and_c = space.grid(row, 160)
        log_f = space.log_reward(crystals)
        log_prior = torch.full_like(log_f, -math.inf)
        log_prior[legal] = space.log_density(network, row, a_and_c[legal])
        log_prior = (composition[row] + log_prior) / temperature
        weights.append(torch.where(legal, log_prior + log_f, -math.inf).logsumexp(0) - math.log(len(legal)))
    exact = torch.stack(weights).softmax(0)
    learned = marginal(space, model.policy)
    floor = sampling_floor(exact)
    assert abs(learned.sum().item() - 1) < 1e-4
    assert total_variation(learned, exact) < 1.5 * floor
    # Without the prior, or with its square, the distribution would be another one.
    for other in (0.0, 2.0):
        wrong = (exact.log() + (other - 1) * composition / temperature).softmax(0)
        assert total_variation(wrong, exact) > 3 * floor


class Letters(Proxy):
    """1 + how often the first letter occurs in a sequence."""

    name, unit = "letters", ""

    def forward(self, objects):
        return 1 + (objects == 0).sum(1).double()


SEQUENCE = (Sequence("ab", 5), Letters())
GRID = (HyperGrid(2, 6), HyperGridModes(6))


@pytest.mark.parametrize(
    ("loss", "space"),
    [
        (TrajectoryBalance(), SEQUENCE),
        (LogPartitionVariance(), SEQUENCE),
        (DetailedBalance(), SEQUENCE),
        (SubTrajectoryBalance(), SEQUENCE),
        (FlowMatching(), SEQUENCE),
        (TrajectoryBalance(), GRID),
        (LogPartitionVariance(), GRID),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Loss) else type(value[0]).__name__,
)
def test_every_loss_learns_prior_times_f(loss, space, tmp_path):
    env, proxy = space
    network = random_policy(env)
    prior = Prior(saved(network, tmp_path / "prior.ckpt"), uniform=0.0)
    model = train(loss, 400, env=env, proxy=proxy, reward=Identity(), prior=prior, batch_size=64, lr=1e-2)
    listed = env.enumerate()
    before = terminating_distribution(env, network)
    f = proxy.predict(env.decode(listed)).value
    exact = before * f / (before * f).sum()
    learned = terminating_distribution(env, model.policy)
    assert total_variation(learned, exact) < 1.5 * sampling_floor(exact)
    assert min(total_variation(learned, other / other.sum()) for other in (before, f)) > 3 * sampling_floor(exact)
    # The samples say their log p_prior, and in a tree exactly.
    outputs = model.sample(200, generator("samples"))
    states = outputs["states"]
    place = (states.unsqueeze(1) == listed).all(2).int().argmax(1)
    if env.is_tree:
        torch.testing.assert_close(outputs["log_prior"], before[place].log())
        torch.testing.assert_close(outputs["log_reward"], (before * f)[place].log())
        torch.testing.assert_close(model.log_rewards(listed), (before * f).log())
    else:
        torch.testing.assert_close(model.log_priors(listed), before.log(), atol=0.5, rtol=0.0)


def test_replay_and_data_sets_learn_prior_times_f(tmp_path):
    env, proxy = SEQUENCE
    table = tmp_path / "known.csv"
    env.to_frame(env.enumerate()[::3]).to_csv(table, index=False)
    network = random_policy(env)
    model = train(
        TrajectoryBalance(), 400, env=env, proxy=proxy, reward=Identity(), batch_size=32, lr=1e-2,
        prior=Prior(saved(network, tmp_path / "prior.ckpt"), 2.0, uniform=0.1), replay=ReplayBuffer(100, 16),
        data_set=DataSet(table, 16),
    )  # fmt: skip
    model.prior.temperature = 1.0
    before = (model.log_rewards(env.enumerate()) - proxy.predict(env.decode(env.enumerate())).value.log()).exp()
    assert before.sum().item() == pytest.approx(1.0)
    weights = before.sqrt() * proxy.predict(env.decode(env.enumerate())).value
    exact = weights / weights.sum()
    assert total_variation(terminating_distribution(env, model.policy), exact) < 1.5 * sampling_floor(exact)


def test_a_prior_that_excludes_almost_everything_keeps_every_object_possible(tmp_path):
    env, _ = SEQUENCE
    path = saved(random_policy(env, scale=200.0), tmp_path / "prior.ckpt")
    lowest = []
    for uniform in (0.0, 0.01):
        model = GFlowNet(env, policy=partial(MLP, hidden=HIDDEN), prior=Prior(path, uniform=uniform))
        lowest.append(model.log_priors(env.enumerate()).min().item())
    assert lowest[0] < -50 and lowest[1] >= 5 * math.log(0.01 / 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": DetailedBalance()}, "the loss DetailedBalance"),
        ({"loss": FlowMatching()}, "the loss FlowMatching"),
        ({"temperature": 2.0}, "temperature 2.0"),
        ({"replay": ReplayBuffer(10, 2)}, "replay"),
        ({"data_set": DataSet("known.csv", 2)}, "data_set"),
        ({"backward_policy": "learned"}, "a learned backward_policy"),
        ({"loss": ForwardLookingDetailedBalance()}, "ForwardLookingDetailedBalance"),
    ],
)
def test_what_several_trajectories_do_not_allow(tmp_path, settings, message):
    env, proxy = GRID
    prior = Prior(tmp_path / "absent.ckpt", settings.pop("temperature", 1.0))
    with pytest.raises(InputError, match=rf"prior: is not possible with .*{message}"):
        GFlowNet(env, proxy, Identity(), prior=prior, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, r"prior\.temperature: 0\.0 is not allowed"),
        ({"uniform": 1.0}, r"prior\.uniform: 1\.0 is not allowed"),
        ({"uniform": -0.1}, r"prior\.uniform: -0\.1 is not allowed"),
    ],
)
def test_settings_that_are_not_allowed(settings, message):
    with pytest.raises(InputError, match=message):
        Prior("universal", **settings)


def test_a_missing_file_and_a_missing_target(tmp_path):
    env, proxy = SEQUENCE
    model = GFlowNet(env, proxy, Identity(), prior=Prior(tmp_path / "absent.ckpt"))
    with pytest.raises(InputError, match=r"model\.prior\.checkpoint: there is no file .*absent\.ckpt"):
        model.sample(3, generator("samples"))
    with pytest.raises(InputError, match="reward: is missing"):
        GFlowNet(env, proxy)
    known = DataSet(tmp_path / "known.csv", 2)
    with pytest.raises(InputError, match="reward: is not used by MaximumLikelihood"):
        GFlowNet(env, proxy, Identity(), loss=MaximumLikelihood(), data_set=known)
    with pytest.raises(InputError, match="data_set: is missing; MaximumLikelihood"):
        GFlowNet(env, loss=MaximumLikelihood())
