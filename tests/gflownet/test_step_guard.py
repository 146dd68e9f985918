"""Bad steps are left out, damped, counted and logged; never silent."""

import math

import pytest
import torch
from forked import scalars
from small import checkpoint_of, small_config, write_config
from torch import nn

from crystalgfn.cli import main
from crystalgfn.errors import InputError
from crystalgfn.gflownet.distributions import BetaMixture, MaskedCategorical
from crystalgfn.gflownet.losses import TrajectoryBalance
from crystalgfn.gflownet.replay import ReplayBuffer
from crystalgfn.gflownet.step_guard import BAD_IN_A_ROW, FLOOR_IN_A_ROW, SPIKE, WARM_UP, StepGuard
from crystalgfn.gflownet.truncated import TruncatedBetaMixture
from crystalgfn.random import generator


def weights(*gradients):
    """Parameters with these gradients."""
    made = []
    for gradient in gradients:
        made.append(nn.Parameter(torch.ones(2)))
        made[-1].grad = torch.tensor(gradient)
    return made


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_gradient_changes_nothing_and_is_counted(bad):
    guard, learned = StepGuard(), weights([1.0, 2.0], [3.0, 4.0])
    optimizer = torch.optim.Adam(learned, lr=0.1, fused=True)
    optimizer.step()
    before = [parameter.detach().clone() for parameter in learned]
    states = [{name: value.clone() for name, value in optimizer.state[p].items()} for p in learned]
    learned[1].grad = torch.tensor([1.0, bad])
    assert not guard.check_gradients(learned, 1).isfinite()
    optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(learned, before, strict=True))
    for parameter, state in zip(learned, states, strict=True):
        assert all(torch.equal(optimizer.state[parameter][name], value) for name, value in state.items())
    assert guard.counts()["bad_steps"] == 1


def test_many_bad_steps_in_a_row_stop_the_run():
    guard = StepGuard()
    for _ in range(2):  # one good step between starts the count anew
        for step in range(BAD_IN_A_ROW - 1):
            guard.check_gradients(weights([math.nan, 0.0]), step)
        guard.check_gradients(weights([1.0, 0.0]), 0)
    with pytest.raises(InputError, match=r"20 steps in a row, up to step 19, are not finite; lower model.lr"):
        for step in range(BAD_IN_A_ROW):
            guard.check_gradients(weights([math.nan, 0.0]), step)


def test_a_spike_is_scaled_down_to_ten_times_the_mean():
    guard = StepGuard()
    for step in range(WARM_UP):
        guard.check_gradients(weights([3.0, 4.0]), step)
    near, far = weights([30.0, 39.0]), weights([30000.0, 40000.0])
    guard.check_gradients(near, WARM_UP)
    assert near[0].grad.tolist() == [30.0, 39.0] and guard.counts()["gradient_spikes"] == 0
    limit = SPIKE * guard.mean_norm.item()
    assert guard.check_gradients(far, WARM_UP).item() == 50000.0
    assert far[0].grad.norm().item() == pytest.approx(limit)
    assert guard.counts()["gradient_spikes"] == 1
    assert guard.mean_norm.item() < limit / 5  # a spike moves the mean little


def test_the_start_has_no_spikes():
    guard = StepGuard()
    for step in range(WARM_UP):
        gradients = weights([10.0**step % 1e6, 0.0])
        before = gradients[0].grad.clone()
        guard.check_gradients(gradients, step)
        assert torch.equal(gradients[0].grad, before)


def test_rewards_at_the_floor_are_counted_and_warned_of(recwarn):
    guard, floor = StepGuard(), math.log(1e-8)
    at = torch.full((4,), floor)
    assert guard.check_rewards(torch.tensor([floor, 0.0, 1.0, floor]), floor) == 0.5
    for _ in range(FLOOR_IN_A_ROW - 1):
        assert guard.check_rewards(at, floor) == 1
    assert not recwarn.list
    for _ in range(3):
        guard.check_rewards(at, floor)
    assert ["all rewards of the last 100 steps are at the floor" in str(w.message) for w in recwarn.list] == [True]


def test_replay_keeps_losses_finite():
    class Env:
        state_size = 1

        @staticmethod
        def kinds(states):
            return states

    buffer = ReplayBuffer(4, 2, draw="loss")
    buffer.prepare(Env())
    assert len(buffer.sample(generator("empty"))[0]) == 0
    buffer.add(torch.arange(3.0)[:, None], torch.zeros(3), torch.tensor([1.0, math.nan, math.inf]))
    assert buffer.losses[:3].tolist() == [1.0, 0.0, 0.0]
    buffer.update(torch.tensor([0]), torch.tensor([math.nan]))
    assert buffer.losses[:3].isfinite().all()


@pytest.mark.parametrize("size", [0.0, 50.0, 1e4, 1e30])
def test_extreme_logits_give_proper_distributions(size):
    """However sharp a policy gets, samples are legal, and their log-probabilities and gradients finite."""
    stream = generator("extreme", int(size))
    signs = torch.empty(64, 9).uniform_(-1, 1, generator=stream).sign()
    logits = (signs * size).requires_grad_()
    mask = torch.empty(64, 9).uniform_(generator=stream) < 0.5
    mask[:, 0] = True
    support = torch.tensor([[1.0, 100.0]], dtype=torch.float64).expand(64, 2)
    inner = torch.tensor([[30.0, 31.0, 1.0, 100.0]], dtype=torch.float64).expand(64, 4)
    for distribution in (
        MaskedCategorical(logits, mask),
        BetaMixture(logits, support, (1.0, 100.0), log_scale=False),
        BetaMixture(logits, support, (1.0, 100.0), log_scale=True),
        TruncatedBetaMixture(logits, inner, (1.0, 100.0), log_scale=False),
    ):
        with torch.no_grad():
            actions = distribution.sample(stream)
        log_prob = distribution.log_prob(actions)
        assert log_prob.isfinite().all()
        (gradient,) = torch.autograd.grad(log_prob.sum(), logits)
        assert gradient.isfinite().all()
        if isinstance(distribution, MaskedCategorical):
            assert mask.gather(1, actions.long()).all()
        else:
            low, high = (30.0, 31.0) if isinstance(distribution, TruncatedBetaMixture) else (1.0, 100.0)
            assert ((actions >= low) & (actions <= high)).all()


def fit(folder, *options, **model):
    config = small_config(folder)
    config["model"] |= model
    config["trainer"] |= {"log_every_n_steps": 1, "max_steps": 6}
    return main(["fit", "--config", str(write_config(folder, config)), *options])


def spoil(monkeypatch, steps, value=math.nan):
    """Make the loss of these steps of a run not finite."""
    call, seen = TrajectoryBalance.__call__, []

    def spoilt(self, balance):
        losses = call(self, balance)
        seen.append(1)
        return losses * value if len(seen) in steps else losses

    monkeypatch.setattr(TrajectoryBalance, "__call__", spoilt)


def test_a_bad_step_of_a_run_is_left_out_and_logged(monkeypatch, tmp_path):
    spoil(monkeypatch, {2, 4}, math.inf)
    assert fit(tmp_path) == 0
    logged = scalars(tmp_path / "small")
    assert [logged["train/bad_steps", step] for step in range(6)] == [0, 1, 1, 2, 2, 2]
    assert not math.isfinite(logged["train/loss", 1]) and math.isfinite(logged["train/loss", 2])
    assert logged["train/share_at_floor", 0] == 0 and logged["train/gradient_norm", 0] > 0
    state = torch.load(checkpoint_of(tmp_path), weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for name, value in state.items() if name.startswith(("policy", "log_z")))
    assert state["guard.bad_steps"] == 2


def test_a_run_of_bad_steps_stops_with_a_message(monkeypatch, tmp_path, capfd):
    spoil(monkeypatch, range(3, 100))
    assert fit(tmp_path, "--trainer.max_steps", "60") == 2
    text = capfd.readouterr().err
    assert "the gradients of 20 steps in a row, up to step 21, are not finite; lower model.lr" in text
    assert "Traceback" not in text


def test_a_checkpoint_from_before_these_counts_goes_on(tmp_path):
    assert fit(tmp_path) == 0
    path = checkpoint_of(tmp_path)
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {name: v for name, v in content["state_dict"].items() if not name.startswith("guard.")}
    torch.save(content, path)
    assert main(["fit", "--ckpt_path", str(path), "--trainer.max_steps", "8"]) == 0


def test_weights_that_are_not_finite_are_refused(tmp_path, capfd):
    assert fit(tmp_path) == 0
    path = checkpoint_of(tmp_path)
    content = torch.load(path, weights_only=True)
    next(value for name, value in content["state_dict"].items() if name.startswith("policy.")).fill_(math.nan)
    torch.save(content, path)
    assert main(["predict", "--ckpt_path", str(path), "--data.out", str(tmp_path / "out.csv")]) == 2
    assert "are not finite, because training failed; use an older checkpoint" in capfd.readouterr().err
    assert not (tmp_path / "out.csv").exists()
