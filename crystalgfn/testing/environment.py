"""Tests that every environment must pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from crystalgfn.gflownet.envs.base import CategoricalHead, Environment, Head
from crystalgfn.gflownet.policies.random_policy import RandomPolicy
from crystalgfn.gflownet.rollout import log_forward, sample_backward, sample_forward
from crystalgfn.random import generator
from crystalgfn.testing.generators import assert_untouched, global_generators
from crystalgfn.testing.walk import Transition, random_walk

_SCALES = (0.0, 2.0, 20.0)
"""Standard deviations of random logits: they give uniform choices, uneven choices, and almost certain choices."""


class EnvironmentContract:
    """Tests of one environment; subclass it in a test file and provide the fixture ``env``.

    ::

        class TestMyGrid(EnvironmentContract):
            @pytest.fixture
            def env(self):
                return MyGrid(height=5)

    If an environment takes long to build, build it once, in a module-scoped fixture ``env`` outside the class. Override
    the fixture ``n`` to change the number of walks. The environment's heads must be categorical, or continuous with a
    ``reference`` range.
    """

    @pytest.fixture
    def n(self) -> int:
        """Number of walks."""
        return 48

    # Walks

    def test_declares_its_sizes(self, env: Environment) -> None:
        """Initial states are float64 of the declared size, and the schedule names known heads."""
        states = env.initial_states(3)
        assert states.shape == (3, env.state_size), (
            f"initial_states(3) has shape {tuple(states.shape)}; state_size says it must be (3, {env.state_size})"
        )
        assert states.dtype == torch.float64, f"states are {states.dtype}; they must be float64"
        assert (states == states[0]).all(), "initial states differ from each other"
        unknown = set(env.schedule) - set(env.heads)
        assert not unknown, f"the schedule names {sorted(unknown)}, which are not among the heads {list(env.heads)}"
        assert (env.previous_head(states) == -1).all(), "previous_head of an initial state must be -1"
        assert not env.is_terminal(states).any(), "an initial state is terminal"

    @pytest.mark.parametrize("scale", _SCALES)
    def test_no_dead_ends(self, env: Environment, n: int, scale: float) -> None:
        """Every state on a random walk is terminal or has a legal action, and the walk ends within the schedule."""
        # `random_walk` asserts a legal action in every state.
        states, _ = random_walk(env, 4 * n, generator("no dead ends", str(scale)), scale)
        unfinished = ~env.is_terminal(states)
        assert not unfinished.any(), (
            f"{int(unfinished.sum())} of {len(states)} walks have not ended after the whole schedule, "
            f"for example at {states[unfinished][:1].tolist()}"
        )

    def test_states_are_finite_float64(self, env: Environment, n: int) -> None:
        """Steps forward and backward give float64 states of the declared size, without NaN."""
        for t in _walks(env, n):
            for name, states in (("step", t.after), ("step_back", env.step_back(t.head, t.after, t.actions))):
                assert states.shape == t.before.shape, f"{name} of {t.head!r} changes the shape of states"
                assert states.dtype == torch.float64, f"{name} of {t.head!r} returns {states.dtype}; states are float64"
                assert not states.isnan().any(), f"{name} of {t.head!r} gives states that hold NaN"

    def test_encodings(self, env: Environment, n: int) -> None:
        """Encodings are finite and float32, with the size that the head declares."""
        for t in _walks(env, n):
            encoding = env.encode(t.head, t.before)
            expected = (len(t.before), env.heads[t.head].input_size)
            assert encoding.shape == expected, f"encode({t.head!r}) has shape {tuple(encoding.shape)}, not {expected}"
            assert encoding.dtype == torch.float32, f"encode({t.head!r}) is {encoding.dtype}, not float32"
            assert encoding.isfinite().all(), f"encode({t.head!r}) has values that are not finite"

    def test_features(self, env: Environment) -> None:
        """Features of inputs and options are finite and float32, with one row for each input or option."""
        for name, head in env.heads.items():
            for method, n, features in (
                ("input_features", head.input_size, env.input_features(name)),
                ("option_features", head.n_logits, env.option_features(name)),
            ):
                if features is None:
                    continue
                assert features.dtype == torch.float32, f"{method}({name!r}) is {features.dtype}, not float32"
                assert features.ndim == 2, f"{method}({name!r}) has {features.ndim} dimensions, not 2"
                assert len(features) == n, f"{method}({name!r}) has {len(features)} rows, not {n}"
                assert features.isfinite().all(), f"{method}({name!r}) has values that are not finite"

    def test_names(self, env: Environment) -> None:
        """Inputs and options have different names, one for each, and implied inputs have a factor for each input."""
        for name, head in env.heads.items():
            for method, n, names in (
                ("input_names", head.input_size, env.input_names(name)),
                ("option_names", head.n_logits, env.option_names(name)),
            ):
                if names is None:
                    continue
                assert len(names) == n, f"{method}({name!r}) has {len(names)} names, not {n}"
                twice = [entry for entry in names if names.count(entry) > 1]
                assert not twice, f"{method}({name!r}) has the name {twice[0]!r} twice"
            for entry, factors in env.implied_inputs(name).items():
                assert entry not in (env.input_names(name) or ()), f"implied_inputs({name!r}): {entry!r} has a column"
                shape = tuple(factors.shape)
                assert shape == (head.input_size,), f"implied_inputs({name!r})[{entry!r}] has the shape {shape}"

    def test_supports(self, env: Environment, n: int) -> None:
        """Supports have the size and type that the head declares."""
        for t in _walks(env, n):
            head = env.heads[t.head]
            expected = (len(t.before), head.support_size)
            shape = tuple(t.support.shape)
            assert shape == expected, f"support({t.head!r}) has shape {shape}, not {expected}"
            dtype = torch.bool if isinstance(head, CategoricalHead) else torch.float64
            assert t.support.dtype == dtype, f"support({t.head!r}) is {t.support.dtype}, not {dtype}"

    # Forward and backward

    def test_step_back_undoes_step(self, env: Environment, n: int) -> None:
        """step_back(step(s, a), a) is s exactly, and the head taken is the child's previous head."""
        for t in _walks(env, n):
            back = env.step_back(t.head, t.after, t.actions)
            differs = (back != t.before).any(1)
            assert not differs.any(), (
                f"step_back after step of {t.head!r} does not return to the same state: "
                f"from {t.before[differs][:1].tolist()} with action {t.actions[differs][:1].tolist()} "
                f"to {back[differs][:1].tolist()}"
            )
            previous = env.previous_head(t.after)
            assert (previous == env.head_position(t.head)).all(), (
                f"previous_head after a step of {t.head!r} names {_head_names(env, previous)}"
            )

    def test_action_is_parent_action(self, env: Environment, n: int) -> None:
        """The action that led to a state is among its parent actions, or equals the only one."""
        for t in _walks(env, n):
            parents = env.parent_actions(t.head, t.after)
            if env.has_one_parent(t.head):
                assert torch.equal(parents, t.actions), (
                    f"parent_actions({t.head!r}) of a child is not the action that led to it"
                )
            elif not isinstance(env.heads[t.head], CategoricalHead):
                low, high = parents[:, :2].unbind(1)
                inside = (t.actions[:, 0] >= low) & (t.actions[:, 0] <= high)
                assert inside.all(), f"parent_actions({t.head!r}) of a child leaves out the action that led to it"
                assert (low < high).all(), f"parent_actions({t.head!r}) is an empty interval"
            else:
                assert parents.dtype == torch.bool, f"parent_actions({t.head!r}) is {parents.dtype}, not a bool mask"
                assert parents.gather(1, t.actions.long()).all(), (
                    f"parent_actions({t.head!r}) of a child leaves out the action that led to it"
                )

    def test_legal_actions_are_parent_actions(self, env: Environment, n: int) -> None:
        """P_F > 0 implies P_B > 0: every legal option is a parent action of the child that it leads to."""
        for t in _walks(env, n):
            head = env.heads[t.head]
            if not isinstance(head, CategoricalHead):
                continue
            rows, options = t.support.nonzero(as_tuple=True)
            before, actions = t.before[rows], options.unsqueeze(1).to(torch.float64)
            after = env.step(t.head, before, actions)
            assert (env.previous_head(after) == env.head_position(t.head)).all(), (
                f"previous_head does not name the head after a legal option of {t.head!r}"
            )
            log_pb = env.backward_distribution(t.head, after).log_prob(actions)
            missing = options[~log_pb.isfinite()].unique().tolist()
            assert not missing, f"options {missing} of {t.head!r} are legal, but P_B of the child is 0 for them"
            differs = (env.step_back(t.head, after, actions) != before).any(1)
            wrong = options[differs].unique().tolist()
            assert not wrong, f"step_back does not undo options {wrong} of {t.head!r}"

    def test_parent_actions_are_legal(self, env: Environment, n: int) -> None:
        """P_B > 0 implies P_F > 0: every parent action is legal in its parent and leads to the same child."""
        for t in _walks(env, n):
            parents = env.parent_actions(t.head, t.after)
            if env.has_one_parent(t.head):
                self._check_parents(env, t.head, t.after, parents)
                continue
            if not isinstance(env.heads[t.head], CategoricalHead):
                drawn = env.heads[t.head].uniform(parents).sample(generator("parents"))
                self._check_parents(env, t.head, t.after, drawn)
                continue
            rows, options = parents.nonzero(as_tuple=True)
            self._check_parents(env, t.head, t.after[rows], options.unsqueeze(1).to(torch.float64))

    @staticmethod
    def _check_parents(env: Environment, head: str, after: Tensor, actions: Tensor) -> None:
        before = env.step_back(head, after, actions)
        due = env.next_head(before)
        assert (due == env.head_position(head)).all(), (
            f"a parent action of {head!r} leads back to a state in which {_head_names(env, due)} decides"
        )
        support = env.support(head, before)
        if isinstance(env.heads[head], CategoricalHead):
            legal = support.gather(1, actions.long()).squeeze(1)
        else:
            legal = (actions[:, 0] >= support[:, 0]) & (actions[:, 0] <= support[:, 1])
        assert legal.all(), (
            f"action {actions[~legal][:1].tolist()} is a parent action of {head!r}, but not legal in the state "
            f"{before[~legal][:1].tolist()} that it leads back to"
        )
        assert torch.equal(env.step(head, before, actions), after), (
            f"a parent action of {head!r} leads back to a state in which the same action gives another child"
        )

    def test_backward_trajectories(self, env: Environment, n: int) -> None:
        """Trajectories sampled backward from terminal states consist of legal actions that lead to the same states."""
        policy = RandomPolicy(env)
        forward, _ = sample_forward(env, policy, n, generator("forward"))
        backward = sample_backward(env, forward.states, generator("backward"))
        states = env.initial_states(n)
        for step in backward.steps:
            states = _take_forced(env, states)
            current = states[step.rows]
            assert (env.next_head(current) == env.head_position(step.head)).all(), (
                f"a backward trajectory has {step.head!r} where another head is due"
            )
            torch.testing.assert_close(
                step.support,
                env.support(step.head, current),
                rtol=0,
                atol=0,
                msg=f"a backward trajectory has a support of {step.head!r} that differs from the forward one",
            )
            states[step.rows] = env.step(step.head, current, step.actions)
        states = _take_forced(env, states)
        assert torch.equal(states, forward.states), "the actions of backward trajectories lead to other terminal states"
        assert log_forward(env, policy, backward).isfinite().all(), "a backward trajectory has P_F = 0"
        assert backward.log_pb.isfinite().all(), "a backward trajectory has P_B = 0"

    def test_log_forward(self, env: Environment, n: int) -> None:
        """Log P_F of sampled trajectories is the same when it is evaluated again, and log P_B in a tree is 0."""
        policy = RandomPolicy(env)
        trajectories, log_pf = sample_forward(env, policy, n, generator("forward"))
        torch.testing.assert_close(
            log_forward(env, policy, trajectories),
            log_pf,
            rtol=1e-5,
            atol=1e-4,
            msg=lambda m: f"log_forward differs from the log P_F that sample_forward returned\n{m}",
        )
        if env.is_tree:
            assert (trajectories.log_pb == 0).all(), "log P_B in a tree must be 0"

    # Distributions

    def test_discrete_distributions(self, env: Environment, n: int) -> None:
        """Probabilities of options sum to 1, and those of illegal options are 0, for P_F and P_B."""
        for t in _walks(env, n):
            if not isinstance(env.heads[t.head], CategoricalHead):
                continue
            forward = env.forward_distribution(t.head, t.before, t.logits)
            _check_probabilities(f"P_F of {t.head!r}", forward.log_prob, t.support)
            if not env.has_one_parent(t.head):
                backward = env.backward_distribution(t.head, t.after)
                _check_probabilities(f"P_B of {t.head!r}", backward.log_prob, env.parent_actions(t.head, t.after))

    def test_continuous_densities(self, env: Environment, n: int) -> None:
        """Densities integrate to 1 over their support, in units of the head's reference range, and are 0 outside.

        The support of a learned P_B is the interval of parent actions.
        """
        for t in _walks(env, n):
            if isinstance(env.heads[t.head], CategoricalHead):
                continue
            # A few rows are enough, because each is evaluated at thousands of points.
            _check_densities(f"{t.head!r}", env.heads[t.head], t.logits[:6], t.support[:6])
            if not env.has_one_parent(t.head):
                parents = env.parent_actions(t.head, t.after[:6])
                _check_densities(f"P_B of {t.head!r}", env.heads[t.head], t.logits[:6], parents)

    # Batches

    def test_rows_do_not_interact(self, env: Environment, n: int) -> None:
        """A batch gives the same results as its rows one by one, in any order."""
        for t in _by_head(random_walk(env, n, generator("rows"))[1], rows=16):
            order = torch.randperm(len(t.before), generator=torch.Generator().manual_seed(0))
            for name, states, method in _methods(env, t):
                batch = method(states, t.actions)
                reordered = method(states[order], t.actions[order])
                _assert_same(batch[order], reordered, f"{name} of {t.head!r} depends on the order of the rows")
                single = torch.cat([method(*row) for row in zip(states.split(1), t.actions.split(1), strict=True)])
                _assert_same(batch, single, f"{name} of {t.head!r} depends on the other rows of the batch")

    def test_same_seed_same_trajectories(self, env: Environment, n: int) -> None:
        """The same seed gives the same trajectories, another seed gives others, and no global generator is used."""
        policy = RandomPolicy(env)
        before = global_generators()
        first, log_pf = sample_forward(env, policy, n, generator(1), epsilon=0.1)
        again, log_pf_again = sample_forward(env, policy, n, generator(1), epsilon=0.1)
        back = sample_backward(env, first.states, generator(2))
        back_again = sample_backward(env, first.states, generator(2))
        other, _ = sample_forward(env, policy, n, generator(3), epsilon=0.1)
        assert_untouched(before, "sampling")
        assert torch.equal(first.states, again.states) and torch.equal(log_pf, log_pf_again), (
            "the same seed gives different trajectories"
        )
        for step, step_again in zip(back.steps, back_again.steps, strict=True):
            assert torch.equal(step.actions, step_again.actions), "the same seed gives different backward trajectories"
        if len(first.states.unique(dim=0)) > n // 2:
            assert not torch.equal(first.states, other.states), "another seed gives the same trajectories"

    def test_states_are_not_modified(self, env: Environment, n: int) -> None:
        """No method changes the states or actions that it is given."""
        for t in _walks(env, n):
            for name, states, method in _methods(env, t):
                given, actions = states.clone(), t.actions.clone()
                method(given, actions)
                assert torch.equal(given, states), f"{name} of {t.head!r} modifies the states in place"
                assert torch.equal(actions, t.actions), f"{name} of {t.head!r} modifies the actions in place"
        terminal, _ = random_walk(env, n, generator("terminal"))
        for name in ("decode", "to_frame", "describe"):
            given = terminal.clone()
            getattr(env, name)(given)
            assert torch.equal(given, terminal), f"{name} modifies the states in place"

    # Module, enumeration and tables

    def test_tables_follow_the_module(self, env: Environment, n: int) -> None:
        """Tables are non-persistent buffers: the state_dict is empty, and ``to`` moves all tables."""
        assert not env.state_dict(), (
            f"state_dict holds {sorted(env.state_dict())}; register tables with persistent=False"
        )
        assert not list(env.parameters()), "an environment has no parameters"
        for name, module in env.named_modules():
            plain = [key for key, value in vars(module).items() if isinstance(value, Tensor)]
            assert not plain, f"{name or 'the environment'}: `to` leaves {plain} behind: tensors that are not buffers"
        devices = [torch.device("cpu")] + [torch.device("cuda")] * torch.cuda.is_available()
        home = env.device
        for device in devices:
            moved = env.to(device)
            states, _ = random_walk(moved, n, generator("moved", device=device))
            assert states.device.type == device.type, f"states are on {states.device} after to({device})"
            assert moved.is_terminal(states).all(), f"walks do not end after to({device})"
        env.to(home)

    def test_enumerate(self, env: Environment, n: int) -> None:
        """``enumerate`` lists each terminal state once and contains all sampled ones, or it raises TypeError."""
        if not env.is_enumerable:
            with pytest.raises(TypeError):
                env.enumerate()
            return
        listed = env.enumerate()
        assert listed.shape[1] == env.state_size, "enumerate returns states of another size"
        assert env.is_terminal(listed).all(), "enumerate lists states that are not terminal"
        known = set(map(tuple, listed.tolist()))
        assert len(known) == len(listed), "enumerate lists a state twice"
        sampled, _ = random_walk(env, 4 * n, generator("enumerate"))
        missing = set(map(tuple, sampled.tolist())) - known
        assert not missing, f"enumerate leaves out {next(iter(missing))}"

    def test_tables_for_people(self, env: Environment, n: int) -> None:
        """``to_frame`` gives one row and ``describe`` gives one name for each terminal state."""
        states, _ = random_walk(env, n, generator("frame"))
        frame = env.to_frame(states)
        assert len(frame) == n, "to_frame must give one row for each state"
        assert env.columns() == list(frame.columns), "to_frame must give the same columns for no states"
        names = env.describe(states)
        assert len(names) == n, "describe must give one name for each state"
        assert all(isinstance(name, str) and name for name in names), "describe must give names that are not empty"


def _walks(env: Environment, n: int) -> list[Transition]:
    """Transitions of random walks with uniform choices and with uneven choices."""
    return [t for scale in _SCALES[:2] for t in random_walk(env, n, generator("walk", str(scale)), scale)[1]]


def _by_head(transitions: list[Transition], rows: int) -> list[Transition]:
    """One transition for each head, with at most ``rows`` rows drawn at random from all transitions of this head."""
    merged = []
    for head in {t.head: None for t in transitions}:
        own = [t for t in transitions if t.head == head]
        order = torch.randperm(sum(len(t.before) for t in own), generator=torch.Generator().manual_seed(0))[:rows]
        fields = ("before", "support", "logits", "actions", "after")
        merged.append(Transition(head, *(torch.cat([getattr(t, name) for t in own])[order] for name in fields)))
    return merged


def _methods(env: Environment, t: Transition) -> list[tuple[str, Tensor, Callable[[Tensor, Tensor], Tensor]]]:
    """Methods to test: the name, the states of the transition that it takes, and a function of states and actions."""
    return [
        ("encode", t.before, lambda s, a: env.encode(t.head, s)),
        ("support", t.before, lambda s, a: env.support(t.head, s)),
        ("next_head", t.before, lambda s, a: env.next_head(s)),
        ("is_terminal", t.after, lambda s, a: env.is_terminal(s)),
        ("step", t.before, lambda s, a: env.step(t.head, s, a)),
        ("previous_head", t.after, lambda s, a: env.previous_head(s)),
        ("parent_actions", t.after, lambda s, a: env.parent_actions(t.head, s)),
        ("step_back", t.after, lambda s, a: env.step_back(t.head, s, a)),
    ]


def _head_names(env: Environment, positions: Tensor) -> list[str]:
    names = list(env.heads)
    return [names[p] if p >= 0 else "no head" for p in sorted(set(positions.tolist()))]


def _check_probabilities(what: str, log_prob: Callable[[Tensor], Tensor], legal: Tensor) -> None:
    options = torch.arange(legal.shape[1], dtype=torch.float64, device=legal.device)
    columns = [log_prob(option.expand(len(legal), 1)).to(torch.float64) for option in options]
    probabilities = torch.stack(columns, 1).exp()
    total = probabilities.sum(1)
    assert (total - 1).abs().max() < 1e-5, f"{what} sums to {total[(total - 1).abs().argmax()].item()}, not to 1"
    assert (probabilities[~legal] == 0).all(), f"{what} gives an illegal option a probability above 0"


def _check_densities(what: str, head: Head, logits: Tensor, support: Tensor) -> None:
    low, high = support[:, :2].unbind(1)
    reference = head.reference  # type: ignore[attr-defined]
    grid = _grid(low, high)
    points = head.distribution(logits.repeat(len(grid), 1), support.repeat(len(grid), 1))
    density = points.log_prob(grid.reshape(-1, 1)).exp().reshape(grid.shape)
    mass = torch.trapezoid(density, grid, dim=0) / (reference[1] - reference[0])
    wrong = (mass - 1).abs() > 5e-3
    assert not wrong.any(), (
        f"the density of {what} integrates to {mass[wrong][:1].tolist()} over its support "
        f"{support[wrong][:1].tolist()}, measured in units of {reference}; it must be 1"
    )
    distribution = head.distribution(logits, support)
    for outside in (low - 0.01 * (high - low), high + 0.01 * (high - low)):
        log_prob = distribution.log_prob(outside.unsqueeze(1))
        assert (log_prob == float("-inf")).all(), f"the density of {what} is not 0 outside of its support"


def _grid(low: Tensor, high: Tensor, points: int = 3000) -> Tensor:
    """Points at which to evaluate densities on n intervals.

    Returns:
        (2 * points, n) points of each interval in rising order. One half is spaced evenly in the value, the other half
        in its logarithm; if the interval is not positive, both halves are spaced evenly in the value.
    """
    u = torch.linspace(0, 1, points, dtype=torch.float64, device=low.device).unsqueeze(1)
    even = low + (high - low) * u
    ratio = torch.where(low > 0, high / low.clamp_min(1e-300), 1.0)
    return torch.cat([even, torch.where(low > 0, low * ratio**u, even)]).sort(0).values


def _assert_same(one: Tensor, two: Tensor, message: str) -> None:
    # Vectorised kernels may round the last bit differently for batches of different sizes.
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-6}.get(one.dtype, 0.0)
    torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance, msg=lambda m: f"{message}\n{m}")


def _take_forced(env: Environment, states: Tensor) -> Tensor:
    """The states after all forced actions, which have no alternative; trajectories do not contain these actions."""
    while True:
        due, taken = env.next_head(states), False
        for position, name in enumerate(env.heads):
            rows = torch.nonzero(due == position).squeeze(1)
            if len(rows) == 0 or not isinstance(env.heads[name], CategoricalHead):
                continue
            support = env.support(name, states[rows])
            forced = support.sum(1) == 1
            if forced.any():
                actions = support[forced].int().argmax(1, keepdim=True).to(torch.float64)
                states = states.index_copy(0, rows[forced], env.step(name, states[rows[forced]], actions))
                taken = True
        if not taken:
            return states
