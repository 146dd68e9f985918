"""HyperGrid in gfnx. `hypergrid.py` runs it with a Python interpreter that has gfnx (pip install gfnx==0.0.1).

The commands and answers are those of `with_torchgfn.py`. gfnx has environments and rollouts. Trajectory balance with a
uniform backward policy is implemented here. The time of compilation is not measured.
"""

import os
import sys
import time

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import jax
import jax.numpy as jnp
import optax
from gfnx.environment.hypergrid import HypergridEnvironment
from gfnx.reward.hypergrid import GeneralHypergridRewardModule
from gfnx.utils.rollout import forward_rollout

ENV = HypergridEnvironment(GeneralHypergridRewardModule(0.1, 0.5, 2.0), dim=4, side=8)
PARAMS = ENV.init(jax.random.PRNGKey(0))
SHAPES = [(32, 256), (256, 256), (256, 5)]


def policy(network, obs):
    """Logits from observations, which are one-hot coordinates."""
    hidden = obs.reshape(*obs.shape[:2] if obs.ndim > 2 else obs.shape[:1], -1).astype(jnp.float32)
    for i, (weight, bias) in enumerate(network):
        hidden = hidden @ weight + bias
        hidden = jax.nn.leaky_relu(hidden) if i + 1 < len(network) else hidden
    return hidden


def make():
    """A new network and optimizer."""
    key = jax.random.PRNGKey(0)
    network = []
    for shape in SHAPES:
        key, own = jax.random.split(key)
        network.append((jax.random.normal(own, shape) / shape[0] ** 0.5, jnp.zeros(shape[1])))
    params = {"network": network, "log_z": jnp.zeros(())}
    rates = {"network": optax.adam(1e-3), "log_z": optax.adam(0.1)}
    optimizer = optax.multi_transform(rates, {"network": "network", "log_z": "log_z"})
    return params, optimizer, optimizer.init(params)


def rollout(key, batch, params):
    def act(_, obs, network):
        return policy(network, obs), {}

    return forward_rollout(key, batch, act, params["network"], ENV, PARAMS)[0]


def loss(params, drawn):
    """Trajectory balance of padded trajectories (n, T)."""
    n, turns = drawn.action.shape
    flat = jax.tree.map(lambda x: x.reshape(n * turns, *x.shape[2:]), (drawn.state, drawn.obs))
    invalid = ENV.get_invalid_mask(flat[0], PARAMS)
    logits = policy(params["network"], flat[1])
    log_probs = jax.nn.log_softmax(logits, where=~invalid, axis=-1)
    action = jnp.clip(drawn.action.reshape(-1, 1), 0, 4)
    log_pf = jnp.take_along_axis(log_probs, action, -1).reshape(n, turns)
    log_pf = jnp.where(drawn.pad, 0.0, log_pf).sum(1)
    # A state that is not terminal has one parent for each coordinate above 0.
    parents = (flat[0].state > 0).sum(-1).reshape(n, turns)
    log_pb = -jnp.where(drawn.pad | (parents == 0), 0.0, jnp.log(jnp.maximum(parents, 1))).sum(1)
    log_reward = jnp.where(drawn.pad, 0.0, drawn.log_gfn_reward).sum(1)
    return ((params["log_z"] + log_pf - log_reward - log_pb) ** 2).mean()


def compiled(what, batch, optimizer):
    """A compiled function that samples or trains once."""

    def sample(key, params, state):
        drawn = rollout(key, batch, params)
        return params, state, (~drawn.pad).sum(1).mean()

    def train(key, params, state):
        drawn = rollout(key, batch, params)
        gradient = jax.grad(loss)(params, drawn)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, (~drawn.pad).sum(1).mean()

    return jax.jit(sample if what == "sample" else train)


def main():
    models = {}
    key = jax.random.PRNGKey(1)
    print("ready", flush=True)
    for line in sys.stdin:
        what, batch, calls = line.split()
        if (what, batch) not in models:
            params, optimizer, state = make()
            run = compiled(what, int(batch), optimizer)
            jax.block_until_ready(run(key, params, state))
            models[what, batch] = run, params, state
        run, params, state = models[what, batch]
        actions = 0.0
        started = time.process_time()
        for _ in range(int(calls)):
            key, own = jax.random.split(key)
            params, state, length = run(own, params, state)
            actions += float(length)
        print(time.process_time() - started, actions / int(calls), flush=True)
        models[what, batch] = run, params, state


main()
