"""Rewards: from properties to log R."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from crystalgfn.errors import InputError
from crystalgfn.gflownet.proxies import Prediction, Proxy
from crystalgfn.gflownet.rewards import (
    Boltzmann,
    Identity,
    Power,
    Product,
    PropertyReward,
    Reward,
    Standardized,
    Target,
    Within,
)

VALUES = torch.tensor([-3.0, -0.5, 0.0, 0.5, 2.0])


class Plain(Proxy):
    name = "plain"

    def forward(self, objects):
        return objects


class Unsure(Plain):
    name = "unsure"
    has_uncertainty = True

    def predict(self, objects):
        return Prediction(objects, objects.abs() / 10)


def log_reward(reward: PropertyReward, values: Tensor, uncertainty: Tensor | None = None) -> Tensor:
    return reward({"y": Prediction(values, uncertainty)})


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


REWARDS = [
    (Boltzmann(2.0), lambda y: math.exp(-2 * y)),
    (Boltzmann(-0.7), lambda y: math.exp(0.7 * y)),
    (Boltzmann(0.0), lambda y: 1.0),
    (Boltzmann(2.0, enough=0.0), lambda y: math.exp(-2 * max(y, 0))),
    (Boltzmann(-2.0, enough=0.4), lambda y: math.exp(2 * min(y, 0.4))),
    (Power(2.5), lambda y: y**2.5 if y > 0 else 0.0),
    (Power(-1.0), lambda y: 1 / y if y > 0 else 0.0),
    (Identity(), lambda y: max(y, 0.0)),
    (Target(1.34, 8.0), lambda y: math.exp(-8 * (y - 1.34) ** 2)),
    (Target(1.34, 2.0, "absolute"), lambda y: math.exp(-2 * abs(y - 1.34))),
    (Within(None, 1.0, 0.25), lambda y: sigmoid((1 - y) / 0.25)),
    (Within(-1.0, 1.0, 0.5), lambda y: sigmoid((y + 1) / 0.5) * sigmoid((1 - y) / 0.5)),
    (Standardized(Boltzmann(2.0), 0.5, 4.0), lambda y: math.exp(-2 * (y - 0.5) / 4)),
]


@pytest.mark.parametrize(("reward", "expected"), REWARDS, ids=lambda value: type(value).__name__)
def test_formulas(reward: PropertyReward, expected: object) -> None:
    assert callable(expected)
    found = log_reward(reward, VALUES)
    assert found.dtype == torch.float64 and found.shape == VALUES.shape
    wanted = torch.tensor([math.log(max(expected(y), reward.floor)) for y in VALUES.tolist()], dtype=torch.float64)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("make", "worse"),
    [
        (lambda k: Boltzmann(2.0, caution=k), lambda y, u: y + u),
        (lambda k: Boltzmann(-2.0, caution=k), lambda y, u: y - u),
        (lambda k: Boltzmann(2.0, caution=k, enough=0.3), lambda y, u: y + u),
        (lambda k: Power(2.0, caution=k), lambda y, u: y - u),
        (lambda k: Power(-2.0, caution=k), lambda y, u: y + u if y > 0 else y),
        (lambda k: Identity(caution=k), lambda y, u: y - u),
        (lambda k: Target(0.1, 3.0, caution=k), lambda y, u: 0.1 + abs(y - 0.1) + u),
        (lambda k: Within(None, 1.0, 0.2, caution=k), lambda y, u: y + u),
        (lambda k: Within(-1.0, None, 0.2, caution=k), lambda y, u: y - u),
    ],
)
def test_caution_takes_the_property_to_be_worse(make, worse) -> None:
    """With caution 1.5 the reward is that of the property moved by 1.5 uncertainties, and never higher."""
    uncertainty = torch.tensor([0.1, 0.4, 0.2, 0.05, 1.0])
    cautious, plain = make(1.5), make(0.0)
    found = log_reward(cautious, VALUES, uncertainty)
    moved = [worse(y, 1.5 * u) for y, u in zip(VALUES.double().tolist(), uncertainty.double().tolist(), strict=True)]
    torch.testing.assert_close(found, log_reward(plain, torch.tensor(moved, dtype=torch.float64)))
    assert (found <= log_reward(plain, VALUES) + 1e-12).all()
    assert torch.equal(log_reward(plain, VALUES, uncertainty), log_reward(plain, VALUES))


def test_standardized_is_cautious_in_its_own_units() -> None:
    uncertainty = torch.full((5,), 0.4)
    found = log_reward(Standardized(Boltzmann(1.0, caution=2.0), 0.5, 4.0), VALUES, uncertainty)
    torch.testing.assert_close(found, log_reward(Boltzmann(0.25), VALUES.double() - 0.5 + 0.8))


@pytest.mark.parametrize(
    "reward",
    [Boltzmann(50.0, 1e-3), Power(9.0, 1e-3), Identity(1e-3), Target(0.0, 9.0, floor=1e-3), Within(0, 1, 0.01, 1e-3)],
    ids=lambda value: type(value).__name__,
)
def test_floor(reward: PropertyReward) -> None:
    found = log_reward(reward, torch.linspace(-100, 100, 401))
    assert found.isfinite().all()
    assert found.min() == pytest.approx(math.log(1e-3))


def test_higher_rewards_are_not_clipped() -> None:
    # exp(1000) overflows; log R does not.
    assert log_reward(Boltzmann(10.0), torch.tensor([-100.0])).item() == pytest.approx(1000.0)


def test_empty_batch() -> None:
    assert log_reward(Power(), torch.zeros(0)).shape == (0,)


def test_product_weighs_and_clips() -> None:
    reward = Product({"x": Boltzmann(2.0), "y": Target(1.0, 3.0)}, {"y": 0.5}, floor=1e-6)
    y = torch.tensor([0.0, 1.0, 1.5, 2.0, 9.0])
    predictions = {"x": Prediction(VALUES), "other": Prediction(VALUES), "y": Prediction(y)}
    expected = -2 * VALUES.double() + 0.5 * (-3 * (y.double() - 1) ** 2).clamp_min(math.log(1e-8))
    torch.testing.assert_close(reward(predictions), expected.clamp_min(math.log(1e-6)))
    assert list(reward.parts(predictions)) == ["x", "y"]
    torch.testing.assert_close(sum(reward.parts(predictions).values()), expected)


@pytest.mark.parametrize(
    ("reward", "proxies", "message"),
    [
        (Boltzmann(1.0), [Plain(), Unsure()], r"Boltzmann: is for one property.* 2 \(plain, unsure\); use .* Product"),
        (Boltzmann(1.0, caution=1.0), [Plain()], "caution: 1.0 is not allowed; the proxy Plain has no uncertainty"),
        (Product({"gap": Boltzmann(1.0)}), [Plain()], "rewards: no proxy predicts 'gap'; predicted: plain"),
        (Product({"plain": Boltzmann(1.0, caution=1.0)}), [Plain(), Unsure()], "the proxy Plain has no uncertainty"),
    ],
)
def test_proxies_that_do_not_fit(reward: Reward, proxies: list[Proxy], message: str) -> None:
    with pytest.raises(InputError, match=message):
        reward.check(proxies)


def test_proxies_that_fit() -> None:
    Boltzmann(1.0, caution=1.0).check([Unsure()])
    Product({"unsure": Boltzmann(1.0, caution=1.0)}).check([Plain(), Unsure()])


def test_standardized_by_a_table_that_a_checkpoint_replaces(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("name,y\na,1\nb,3\nc,\nd,none\n")
    reward = Standardized(Boltzmann(1.0), table=table, column="y")
    assert reward.scale.tolist() == [2.0, 1.0]
    table.unlink()
    copy = Standardized(Boltzmann(1.0), table=table, column="y")
    with pytest.raises(InputError, match=r"table: there is no file .*table\.csv"):
        log_reward(copy, VALUES)
    copy.load_state_dict(reward.state_dict())
    assert torch.equal(log_reward(copy, VALUES), log_reward(reward, VALUES))


NUMBERS = "y\n1\n1\n"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _: Boltzmann(float("nan")), ["beta", "nan"]),
        (lambda _: Boltzmann(float("inf")), ["beta", "inf"]),
        (lambda _: Boltzmann(1.0, caution=-1.0), ["caution", "-1.0"]),
        (lambda _: Boltzmann(1.0, enough=float("nan")), ["enough", "nan"]),
        (lambda _: Power(float("nan")), ["exponent", "nan"]),
        (lambda _: Identity(0.0), ["floor", "0.0"]),
        (lambda _: Identity(-1.0), ["floor", "-1.0"]),
        (lambda _: Boltzmann(1.0, float("inf")), ["floor", "inf"]),
        (lambda _: Boltzmann(1.0, float("nan")), ["floor", "nan"]),
        (lambda _: Target(float("nan"), 1.0), ["target", "nan"]),
        (lambda _: Target(1.0, 0.0), ["beta", "0.0", "positive"]),
        (lambda _: Target(1.0, 1.0, "cubic"), ["distance", "cubic", "squared, absolute"]),  # type: ignore[arg-type]
        (lambda _: Within(None, None, 1.0), ["low, high", "at least one"]),
        (lambda _: Within(2.0, 1.0, 1.0), ["low, high", "[2.0, 1.0]", "low < high"]),
        (lambda _: Within(0.0, 1.0, 0.0), ["width", "0.0"]),
        (lambda _: Standardized(Identity()), ["mean, deviation, table, column"]),
        (lambda _: Standardized(Identity(), 1.0), ["mean, deviation, table, column"]),
        (lambda _: Standardized(Identity(), 1.0, 0.0), ["deviation", "0.0", "positive"]),
        (lambda p: Standardized(Identity(), table=p), ["mean, deviation, table, column"]),
        (lambda p: Standardized(Identity(), table=p, column="z"), ["column", "'z'", "it has: y"]),
        (lambda p: Standardized(Identity(), table=p, column="y"), ["column", "'y'", "two different numbers"]),
        (lambda _: Product({}), ["rewards", "at least one"]),
        (lambda _: Product({"x": Identity()}, {"y": 1.0}), ["weights", "'y'", "properties with a reward: x"]),
        (lambda _: Product({"x": Identity()}, {"x": 0.0}), ["weights.x", "0.0", "positive"]),
    ],
)
def test_bad_settings(make, words: list[str], tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(NUMBERS)
    with pytest.raises(InputError) as caught:
        make(table)
    assert all(word in str(caught.value) for word in words)
