"""An environment of three stages: a substrate, dopants that it allows, and a thickness that both of them allow."""

import pandas as pd
import torch

from crystalgfn import Proxy, Stack, Stage
from crystalgfn.gflownet.envs import BetaMixtureHead, Set

SUBSTRATES = ["glass", "sapphire", "silicon"]
DOPANTS = ["Al", "Ga", "In", "F", "Sn"]
ALLOWED = [[1, 1, 1, 0, 1], [1, 1, 0, 0, 1], [1, 1, 1, 1, 1]]  # 1 if the substrate (row) allows the dopant (column)
CRITICAL = [500.0, 400.0, 250.0]  # thickness [nm] at which an undoped film on each substrate cracks
STRAIN = [0.1, 0.05, 0.3, 0.0, 0.2]  # share by which each dopant lowers the critical thickness


class Thickness(Stage):
    """A thickness [nm] between the least and the largest one. The largest one is the condition of the stage."""

    condition_size, encoding_size, state_size = 1, 1, 2  # state: thickness (0 if not drawn yet), largest one
    schedule = ("thickness",)

    def __init__(self, least: float, largest: float, components: int = 3):
        super().__init__()
        self.heads = {"thickness": BetaMixtureHead(1, components, (least, largest))}
        self.register_buffer("range", torch.tensor([least, largest], dtype=torch.float64), persistent=False)

    def default_condition(self):
        return self.range[1:]

    def start(self, condition):
        return torch.cat([torch.zeros_like(condition), condition], 1)

    def next_head(self, states):
        return torch.where(states[:, 0] > 0, -1, 0)

    def previous_head(self, states):
        return torch.where(states[:, 0] > 0, 0, -1)

    def encode(self, head, states):
        return (states[:, 1:] / self.range[1]).float()

    def encode_terminal(self, states):
        return (states[:, :1] / self.range[1]).float()

    def support(self, head, states):
        return torch.cat([self.range[:1].expand(len(states), 1), states[:, 1:]], 1)

    def step(self, head, states, actions):
        return torch.cat([actions, states[:, 1:]], 1)

    def parent_actions(self, head, states):
        return states[:, :1]

    def step_back(self, head, states, actions):
        return torch.cat([torch.zeros_like(actions), states[:, 1:]], 1)

    def decode(self, states):
        return states[:, 0]


class DopedFilm(Stack):
    """A film on a substrate. The dopants depend on the substrate, and the largest thickness [nm] on both."""

    def __init__(self, dopants: int = 2, least: float = 20.0):
        stages = {
            "substrate": Set(len(SUBSTRATES), 1),
            "dopants": Set(len(DOPANTS), dopants),
            "thickness": Thickness(least, max(CRITICAL)),
        }
        super().__init__(stages)
        for name, values in {"allowed": ALLOWED, "critical": CRITICAL, "strain": STRAIN}.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64), persistent=False)

    def condition(self, name, states):
        if name == "substrate":
            return super().condition(name, states)
        substrate = self.stage("substrate").decode(self.part("substrate", states)).double()
        if name == "dopants":
            return substrate @ self.allowed
        dopants = self.stage("dopants").decode(self.part("dopants", states)).double()
        return ((substrate @ self.critical) * (1 - dopants @ self.strain)).clamp_min(50.0).unsqueeze(1)

    def to_frame(self, states):
        film = self.decode(states)
        return pd.DataFrame(
            {
                "substrate": [SUBSTRATES[i] for i in film["substrate"].long().argmax(1).tolist()],
                "dopants": [" ".join(d for i, d in enumerate(DOPANTS) if row[i]) for row in film["dopants"].tolist()],
                "thickness": film["thickness"].tolist(),
            }
        )


class FigureOfMerit(Proxy):
    """A made-up property: the conductance grows with thickness and donors, the transmission falls with thickness."""

    name = "figure_of_merit"
    direction = "maximize"
    valid_range = (0.0, float("inf"))

    def __init__(self):
        super().__init__()
        self.register_buffer("donors", torch.tensor([1.0, 1.2, 1.5, 0.8, 2.0], dtype=torch.float64), persistent=False)

    def forward(self, film):
        thickness = film["thickness"] / 100
        return thickness * (film["dopants"].double() @ self.donors) * torch.exp(-thickness / 1.5)
