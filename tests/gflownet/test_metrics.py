"""Metrics of samples: values, reset, pickling, merging over processes, and continuing from a checkpoint."""

import math
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch

from crystalgfn.crystal.crystallography import CRYSTAL_LATTICE_SYSTEMS, POINT_SYMMETRIES
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.crystal.envs import Crystal
from crystalgfn.crystal.group_classes import CRYSTAL_SYSTEMS, LATTICE_SYSTEMS, group_classes
from crystalgfn.crystal.keys import composition_keys, crystal_keys
from crystalgfn.gflownet.envs import HyperGrid
from crystalgfn.gflownet.keys import hash_rows, state_keys
from crystalgfn.gflownet.metrics import (
    Coverage,
    ExactDistance,
    LikelihoodAgreement,
    PartitionEstimate,
    SampleMetric,
    TopK,
    Uniqueness,
    Values,
    class_coverage,
    jensen_shannon,
    merge_classes,
    pearson,
    ranks,
    sampling_floor,
    top_k_rows,
    total_variation,
    unique_fraction,
)


def rock_salt(a: float = 5.6, **counts: int) -> Crystals:
    return Crystals.from_arrays([225], [counts or {"Na": 4, "Cl": 4}], [[a, a, a, 90, 90, 90]])


def updates(seed: int) -> dict[str, tuple[SampleMetric, list[tuple[torch.Tensor, ...]]]]:
    """A fresh metric of each kind, with the arguments of three updates."""
    stream = torch.Generator().manual_seed(seed)

    def rows(n: int) -> tuple[torch.Tensor, ...]:
        keys = torch.randint(0, 6, (n, 2), generator=stream)
        value = torch.rand(n, generator=stream, dtype=torch.float64)
        return keys.double(), value, value.round(decimals=2), keys

    batches = [rows(n) for n in (5, 30, 1)]
    return {
        "uniqueness": (Uniqueness(), [(b[3],) for b in batches]),
        "coverage": (Coverage(8), [(b[3][:, 0],) for b in batches]),
        "presence": (Coverage(8), [(torch.nn.functional.one_hot(b[3], 8).bool().any(1),) for b in batches]),
        "values": (Values(), [(b[1],) for b in batches]),
        "agreement": (LikelihoodAgreement(), [(b[1], b[2]) for b in batches]),
        "partition": (PartitionEstimate(), [(b[1],) for b in batches]),
        "distance": (ExactDistance(torch.arange(1.0, 7.0)), [(b[3][:, 0],) for b in batches]),
        "top_k": (TopK(4, 2, 1), [(b[0], b[1][:, None], *b[2:]) for b in batches]),
    }


KINDS = list(updates(0))


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a.dtype == b.dtype and torch.equal(a, b)


# Keys


def test_keys_tell_crystals_apart_up_to_the_resolution():
    base = crystal_keys(rock_salt())
    assert torch.equal(base, crystal_keys(rock_salt(5.6 + 1e-5)))
    assert not torch.equal(base, crystal_keys(rock_salt(5.602)))
    assert torch.equal(composition_keys(rock_salt()), composition_keys(rock_salt(7.0)))
    other_group = Crystals(torch.tensor([221]), rock_salt().counts, rock_salt().lattice)
    others = [other_group, rock_salt(Na=4, F=4), rock_salt(Na=4, Cl=3), rock_salt(Na=3, Cl=5)]
    assert all(not torch.equal(composition_keys(rock_salt()), composition_keys(x)) for x in others)


def test_swapped_columns_have_different_hashes():
    assert hash_rows(torch.tensor([[1, 2], [2, 1], [0, 3], [3, 0], [1, 2]])).unique().numel() == 4
    assert hash_rows(torch.tensor([[1, 2, 0]])) == hash_rows(torch.tensor([[1, 2]]))


def test_hashes_of_many_rows_do_not_collide():
    grid = torch.cartesian_prod(*[torch.arange(-9, 10)] * 4)
    assert hash_rows(grid).unique().numel() == len(grid)
    # Floats of small integers differ in few, high bits only.
    assert hash_rows(state_keys(grid.double())).unique().numel() == len(grid)
    # Every bit of a hash is set about as often as not.
    bits = (hash_rows(grid).unsqueeze(1) >> torch.arange(64)) & 1
    assert (bits.double().mean(0) - 0.5).abs().max() < 0.01


def test_hashes_are_the_same_on_every_machine():
    # The same in Python's integers: SplitMix64's numbers as multipliers, and its finaliser.
    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    multipliers = [mix(0x9E3779B97F4A7C15 * (i + 1) % 2**64) | 1 for i in range(3)]
    expected = mix(sum(key * m for key, m in zip([1, -2, 3], multipliers, strict=True)) % 2**64)
    assert hash_rows(torch.tensor([[1, -2, 3]])).item() % 2**64 == expected


def test_minus_zero_is_zero():
    assert torch.equal(state_keys(torch.tensor([[0.0]])), state_keys(torch.tensor([[-0.0]])))


def test_an_environment_knows_the_keys_of_its_objects():
    states = torch.rand(1, 3)
    crystals = Crystal(space_groups=[225], elements=["Na", "Cl"], max_atoms=8)
    assert torch.equal(crystals.object_keys(rock_salt(), states), crystal_keys(rock_salt()))
    assert torch.equal(HyperGrid().object_keys(torch.rand(1, 2), states), state_keys(states))


# Values


def test_uniqueness():
    metric = Uniqueness()
    metric.update(torch.tensor([[1, 1], [2, 2], [1, 1]]))
    metric.update(torch.tensor([[2, 2]]))
    result = metric.compute()
    assert (result["fraction"], result["distinct"], result["total"]) == (0.5, 2, 4)
    assert unique_fraction(torch.tensor([[1], [1], [2], [3]])) == 0.75
    assert unique_fraction(torch.zeros(0, 2, dtype=torch.int64)) == 0


def test_coverage_counts_only_what_is_possible():
    metric = Coverage(4, torch.tensor([True, True, False, True]))
    metric.update(torch.tensor([0, 2, 0]))
    metric.update(torch.tensor([[False, False, True, False], [True, True, False, False]]))
    result = metric.compute()
    assert result["counts"].tolist() == [3, 1, 2, 0]
    assert result["seen"] == 2
    assert result["fraction"] == pytest.approx(2 / 3)
    assert class_coverage(torch.zeros(3), torch.zeros(3, dtype=torch.bool)) == 0
    with pytest.raises(ValueError, match="shape"):
        Coverage(4, torch.ones(3, dtype=torch.bool))


def test_classes_of_space_groups():
    # Numbers of groups a class has: International Tables, and the sizes of the environment's own classes.
    sizes = {
        "crystal_system": (CRYSTAL_SYSTEMS, [2, 13, 59, 68, 25, 27, 36]),
        "lattice_system": (LATTICE_SYSTEMS, [2, 13, 59, 68, 7, 45, 36]),
        "crystal_lattice_system": (CRYSTAL_LATTICE_SYSTEMS, [2, 13, 59, 68, 7, 18, 27, 36]),
        "point_symmetry": (POINT_SYMMETRIES, [20, 92, 48, 45, 25]),
    }
    for kind, (names, expected) in sizes.items():
        classes = group_classes(kind)
        assert classes.names == names
        ones = torch.ones(230, dtype=torch.int64)
        assert merge_classes(ones, classes.of_group, len(names)).tolist() == expected
    assert group_classes("crystal_system").of_group[[0, 224]].tolist() == [0, 6]


def test_top_k_keeps_the_best_row_of_each_object():
    log_reward = torch.tensor([1.0, 5.0, 3.0, 5.0, 4.0, 5.0])
    objects = torch.tensor([0, 1, 2, 1, 2, 3])
    assert top_k_rows(log_reward, objects, 3).tolist() == [1, 5, 4]
    assert top_k_rows(log_reward, objects, 9).tolist() == [1, 5, 4, 0]


def test_top_k_against_sorting_everything():
    stream = torch.Generator().manual_seed(0)
    keys = torch.randint(0, 40, (300, 1), generator=stream)
    log_reward = torch.rand(300, generator=stream, dtype=torch.float64)
    metric = TopK(7, 1, 1)
    for part in torch.arange(300).split(32):
        rows = part[metric.contenders(log_reward[part])]
        metric.update(keys[rows].double(), log_reward[rows, None] * 2, log_reward[rows], keys[rows])
    best = sorted(((log_reward[keys[:, 0] == key].max().item(), key) for key in keys.unique().tolist()), reverse=True)
    result = metric.compute()
    assert result["log_reward"].tolist() == [value for value, _ in best[:7]]
    assert result["states"][:, 0].tolist() == [key for _, key in best[:7]]
    assert torch.equal(result["properties"][:, 0], result["log_reward"] * 2)
    with pytest.raises(ValueError, match="at least 1"):
        TopK(0, 1, 1)


def test_correlations_against_pandas():
    stream = torch.Generator().manual_seed(0)
    x = torch.rand(50, generator=stream, dtype=torch.float64)
    y = (x + torch.rand(50, generator=stream, dtype=torch.float64)).round(decimals=1)
    frame = pd.DataFrame({"x": x.numpy(), "y": y.numpy()})
    assert torch.equal(ranks(y), torch.tensor(frame.y.rank().to_numpy()))
    metric = LikelihoodAgreement()
    for rows in torch.arange(50).split(20):
        metric.update(y[rows], x[rows])
    metric.update(torch.tensor([1.0, float("nan"), -float("inf")]), torch.tensor([float("nan"), 1.0, 1.0]))
    found = metric.compute()
    assert found["n"] == 50
    assert found["pearson"].item() == pytest.approx(frame.x.corr(frame.y))
    assert found["spearman"].item() == pytest.approx(frame.x.corr(frame.y, method="spearman"))
    assert found["slope"].item() == pytest.approx(np.polyfit(frame.x, frame.y, 1)[0])
    assert pearson(x[:1], y[:1]).isnan() and pearson(torch.ones(3), torch.arange(3.0)).isnan()
    assert LikelihoodAgreement().compute()["pearson"].isnan()


def test_partition_estimate_of_known_weights():
    metric = PartitionEstimate()
    metric.update(torch.tensor([1.0, 3.0]).double().log() + 1000)
    found = metric.compute()
    assert found["log_z"].item() == pytest.approx(1000 + math.log(2))
    assert found["bound"].item() == pytest.approx(1000 + math.log(3) / 2)
    assert found["standard_error"].item() == pytest.approx(2**0.5 / 2 / 2**0.5)
    assert found["effective_share"].item() == pytest.approx(16 / (2 * 10))
    assert PartitionEstimate().compute()["log_z"].isnan()
    one = PartitionEstimate()
    one.update(torch.tensor([3.0]))
    assert one.compute()["log_z"] == 3 and one.compute()["standard_error"].isnan()


def test_the_standard_error_of_log_z_is_that_of_repetitions():
    stream = torch.Generator().manual_seed(0)
    log_weights = torch.randn(400, 500, generator=stream, dtype=torch.float64) / 2
    estimates, errors = [], []
    for row in log_weights:
        metric = PartitionEstimate()
        metric.update(row)
        found = metric.compute()
        estimates.append(found["log_z"])
        errors.append(found["standard_error"])
    assert torch.stack(errors).mean().item() == pytest.approx(torch.stack(estimates).std().item(), rel=0.12)
    assert torch.stack(estimates).mean().item() == pytest.approx(0.125, abs=0.005)  # ln E[exp(x / 2)]


def test_distances_of_distributions():
    p, q = torch.tensor([0.5, 0.5, 0.0]).double(), torch.tensor([0.0, 0.5, 0.5]).double()
    assert total_variation(p, q) == 0.5
    assert jensen_shannon(p, q).item() == pytest.approx(math.log(2) / 2)
    assert jensen_shannon(p, p) == 0
    apart = jensen_shannon(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    assert apart.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("n", [1, 40, 3000])
def test_the_sampling_floor_is_the_mean_over_samples(n):
    stream = torch.Generator().manual_seed(0)
    p = torch.rand(300, generator=stream, dtype=torch.float64) ** 8
    p /= p.sum()
    draws = torch.multinomial(p.expand(400, -1), n, True, generator=stream)
    q = torch.zeros(400, 300, dtype=torch.float64).scatter_add_(1, draws, torch.ones_like(draws).double()) / n
    for exact, found in zip(sampling_floor(p, n), (total_variation(p, q), jensen_shannon(p, q)), strict=True):
        assert abs(exact - found.mean()) < 4 * found.std() / 20


def test_distance_of_samples():
    metric = ExactDistance(torch.tensor([3.0, 1.0]))
    metric.update(torch.tensor([0, 1]))
    metric.update(torch.tensor([0, 1]))
    found = metric.compute()
    assert found["total_variation"] == 0.25 and found["n"] == 4
    # Counts 0 to 4 of the first outcome have the probabilities 1, 12, 54, 108, 81 of 256.
    expected = sum(w * abs(k / 4 - 0.75) for k, w in enumerate((1, 12, 54, 108, 81))) / 256
    assert found["total_variation_floor"].item() == pytest.approx(expected)
    assert ExactDistance(torch.ones(2)).compute()["jensen_shannon"].isnan()


# States


@pytest.mark.parametrize("kind", KINDS)
def test_reset_pickle_and_checkpoint(kind):
    metric, batches = updates(1)[kind]
    fresh, _ = updates(1)[kind]
    for batch in batches:
        metric.update(*batch)
    expected = metric.compute()

    assert same(pickle.loads(pickle.dumps(metric)).compute(), expected)

    # Half the run, a checkpoint, the other half in a new process.
    first, second = (updates(1)[kind][0] for _ in range(2))
    first.update(*batches[0])
    state = first.merged_state()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    second.load_merged_state(state)
    for batch in batches[1:]:
        first.update(*batch)
        second.update(*batch)
    assert same(second.compute(), expected)
    assert same(first.compute(), expected)  # taking the state did not change it

    metric.reset()
    for batch in batches:
        metric.update(*batch)
        fresh.update(*batch)
    assert same(metric.compute(), fresh.compute())


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_with_nothing_new_still_meets_the_others(kind):
    # Answered from a cache, the others would wait for it forever.
    metric, batches = updates(1)[kind]
    meetings = []
    metric.distributed_available_fn = lambda: True
    metric.dist_sync_fn = lambda state, group=None: meetings.append(1) or [state]
    metric.update(*batches[0])
    first = metric.compute()
    n = len(meetings)
    assert n and same(metric.compute(), first)
    assert len(meetings) == 2 * n


def test_metrics_work_inside_and_outside_of_inference_mode():
    for metric, batches in updates(2).values():
        with torch.inference_mode():
            metric.update(*batches[0])
        metric.update(*batches[1])
        metric.compute()


TWO_PROCESSES = """
import sys, torch
import torch.distributed as dist
from torch.multiprocessing import start_processes
from test_metrics import same, updates

def work(rank, file):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    parts = [updates(seed) for seed in (1, 2)]
    for kind in parts[0]:
        alone = updates(0)[kind][0]
        for part in parts:
            for batch in part[kind][1]:
                alone._to_sync = False
                alone.update(*batch)
        mine, batches = parts[rank][kind]
        for batch in batches:
            mine.update(*batch)
        state = mine.merged_state()
        result = mine.compute()
        # A process that has seen nothing sends nothing of the right type.
        lonely, batches = updates(1)[kind]
        if rank == 1:
            for batch in batches:
                lonely.update(*batch)
        half = lonely.compute()
        one = updates(0)[kind][0]
        one._to_sync = False
        for batch in batches:
            one.update(*batch)
        again = updates(0)[kind][0]
        if rank == 0:
            again.load_merged_state(state)
        assert same(result, alone.compute()), (kind, result, alone.compute())
        assert same(half, one.compute()), (kind, half)
        assert same(again.compute(), result), kind
    dist.barrier()
    dist.destroy_process_group()

start_processes(work, args=(sys.argv[1],), nprocs=2, start_method="fork")
print("merged")
"""


@pytest.mark.long
def test_two_processes_together_see_what_one_sees(tmp_path, request):
    script = tmp_path / "two.py"
    script.write_text(textwrap.dedent(TWO_PROCESSES))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(tmp_path / "rendezvous")],
        env={"PYTHONPATH": str(request.path.parent), "PATH": "", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "merged" in done.stdout
