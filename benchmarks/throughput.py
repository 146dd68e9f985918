"""Trajectories a second in sampling and training, and their ratio to the bare policy network on the same rows.

    python benchmarks/throughput.py --config configs/eform.yaml --threads 2 --batch 256 512 1024

The floor of sampling is one forward pass of the policy over every decision of the batch; the floor of training is that
and one forward and backward pass. Machines are noisy: the median of several rounds is printed, and the ratios, which
are taken within a round, say more than the absolute figures. Set GOMP_SPINCOUNT=100000 to measure more than one
thread as the command line runs them.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from crystalgfn.losses import trajectory_balance
from crystalgfn.module import GFlowNet
from crystalgfn.plugins import load_everything
from crystalgfn.policies import MLP
from crystalgfn.random import generator
from crystalgfn.rollout import log_forward, sample_forward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = build(yaml.safe_load(options.config.read_text())["model"])
    print("| batch | sampling/s | ratio to floor | training/s | ratio to floor | proxy, share of training |")
    print("|--:|--:|--:|--:|--:|--:|")
    for batch in options.batch:
        print(f"| {batch} | " + " | ".join(measure(model, batch, options.rounds)) + " |", flush=True)


def build(settings: dict) -> GFlowNet:
    """The model of a config, its policy moved off its uniform start so that no logits are alike."""
    environments, proxies, rewards, *_ = load_everything()
    parts = []
    for registry, field in ((environments, "env"), (proxies, "proxy"), (rewards, "reward")):
        spec = settings[field]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts.append(registry.get(spec["class_path"])(**spec.get("init_args", {})))
    hidden = settings["policy"]["init_args"]["hidden"]
    model = GFlowNet(*parts, policy=lambda sizes: MLP(sizes, hidden=hidden))
    stream = generator("benchmark")
    for parameter in model.policy.parameters():
        if not parameter.any():
            parameter.data.normal_(0, 0.05, generator=stream)
    return model


def measure(model: GFlowNet, batch: int, rounds: int) -> list[str]:
    stream = generator("benchmark", batch)
    env, policy = model.env, model.policy
    trajectories, _ = sample_forward(env, policy, batch, stream)
    inputs: dict[str, torch.Tensor] = {}
    for step in trajectories.steps:
        parts = [inputs[step.head]] if step.head in inputs else []
        inputs[step.head] = torch.cat([*parts, step.inputs])

    def forward() -> None:
        with torch.no_grad():
            for head, rows in inputs.items():
                policy(head, rows)

    def forward_and_backward() -> None:
        sum(policy(head, rows).sum() for head, rows in inputs.items()).backward()

    def train() -> None:
        drawn, _ = sample_forward(env, policy, batch, stream)
        _, log_reward, _ = model.evaluate(drawn.states)
        trajectory_balance(model.log_z, log_forward(env, policy, drawn), drawn.log_pb, log_reward).mean().backward()

    calls = [
        lambda: sample_forward(env, policy, batch, stream),
        train,
        lambda: model.evaluate(trajectories.states),
        forward,
        forward_and_backward,
    ]
    times = [[seconds(call) for call in calls] for _ in range(rounds + 1)][1:]  # the first round warms up

    def median(of: Callable[[list[float]], float]) -> float:
        return statistics.median(of(row) for row in times)

    return [
        f"{batch / median(lambda t: t[0]):,.0f}",
        f"{median(lambda t: t[0] / t[3]):.2f}",
        f"{batch / median(lambda t: t[1]):,.0f}",
        f"{median(lambda t: t[1] / (t[3] + t[4])):.2f}",
        f"{median(lambda t: t[2] / t[1]):.0%}",
    ]


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
