"""HyperGrid in torchgfn. `hypergrid.py` runs it with a Python interpreter that has torchgfn (2.4.1).

The program reads lines ``sample BATCH CALLS`` and ``train BATCH CALLS``. It answers each line with the CPU time [s] and
the mean number of actions. Training is trajectory balance with a uniform backward policy and Adam, as in crystalgfn.
log P_F is kept from sampling, which is the faster way of torchgfn.
"""

import logging
import sys
import time

logging.disable(logging.WARNING)

import torch  # noqa: E402
from gfn.estimators import DiscretePolicyEstimator  # noqa: E402
from gfn.gflownet import TBGFlowNet  # noqa: E402
from gfn.gym import HyperGrid  # noqa: E402
from gfn.preprocessors import KHotPreprocessor  # noqa: E402
from gfn.utils.modules import MLP, DiscreteUniform  # noqa: E402

torch.set_num_threads(1)


def make():
    """A new model and optimizer: an MLP 256 x 2 on one-hot coordinates."""
    torch.manual_seed(0)
    env = HyperGrid(4, 8)
    encoding = KHotPreprocessor(8, 4)
    forward = MLP(encoding.output_dim, env.n_actions, hidden_dim=256, n_hidden_layers=2)
    pf = DiscretePolicyEstimator(forward, env.n_actions, preprocessor=encoding)
    uniform = DiscreteUniform(env.n_actions - 1)
    pb = DiscretePolicyEstimator(uniform, env.n_actions, preprocessor=encoding, is_backward=True)
    model = TBGFlowNet(pf, pb)
    groups = [{"params": model.pf_pb_parameters(), "lr": 1e-3}, {"params": model.logz_parameters(), "lr": 0.1}]
    return env, model, torch.optim.Adam(groups)


def main():
    models = {}
    print("ready", flush=True)
    for line in sys.stdin:
        what, batch, calls = line.split()
        if (what, batch) not in models:
            models[what, batch] = make()
        env, model, optimizer = models[what, batch]
        actions = 0.0
        started = time.process_time()
        for _ in range(int(calls)):
            if what == "sample":
                with torch.no_grad():
                    drawn = model.sample_trajectories(env, n=int(batch), save_logprobs=False)
            else:
                drawn = model.sample_trajectories(env, n=int(batch), save_logprobs=True)
                optimizer.zero_grad()
                model.loss(env, drawn, recalculate_all_logprobs=False).backward()
                optimizer.step()
            actions += drawn.terminating_idx.float().mean().item()
        print(time.process_time() - started, actions / int(calls), flush=True)


main()
