"""Ablations of the reward and the proxy of discovery, and the rate of survival over the number of labels.

    python benchmarks/discovery.py ablation benchmarks/discovery.yaml --out DIR --reference TABLE [--n 40] [--seed 0]
    python benchmarks/discovery.py rate discovered/rounds.csv [--final SURVIVORS EVALUATED]
    python benchmarks/discovery.py proxy WEIGHTS --reference TABLE

`ablation` trains a model for each variant in the YAML file, draws n random samples, builds and relaxes all of them, and
prints a table. No sample is left out, and failures count. A step whose result exists is skipped. So you can run a
stopped command again, and you can add variants later. DIR has a folder for each variant, and one labels.db for all of
them; a crystal that two variants sample is evaluated once.

`rate` fits the rate of survival of random samples as a function of the number of labels that the proxy was trained on,
and extrapolates it.

`proxy` prints the errors of a taught proxy and of the usual one, on the test rows of the table with exact labels.

Results: docs/results/discovery.md.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from crystalgfn.settings import read_config

TARGET = 0.5
DRAWS = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    ablation_ = commands.add_parser("ablation", help="train, sample and evaluate; print one row for each variant")
    ablation_.add_argument("variants", type=Path, help="YAML file with config, steps and variants")
    ablation_.add_argument("--out", type=Path, required=True)
    ablation_.add_argument("--reference", type=Path, required=True, help="table of known crystals")
    ablation_.add_argument("--only", nargs="+", help="names of variants (default: all)")
    ablation_.add_argument("--n", type=int, default=40, help="samples of each variant (default 40)")
    ablation_.add_argument("--seed", type=int, default=0, help="seed of training, sampling and building (default 0)")
    ablation_.add_argument(
        "--tries", type=int, default=4, help="arrangements of atoms that are relaxed in the sampled cell (default 4)"
    )
    ablation_.add_argument(
        "--timeout", type=float, default=300.0, help="largest time for each crystal in seconds (default 300)"
    )
    ablation_.add_argument("--jobs", type=int, default=1, help="crystals at the same time (default 1)")
    rate_ = commands.add_parser("rate", help="fit the rate of survival over the number of labels")
    rate_.add_argument("rounds", type=Path, help="rounds.csv of a discovery run")
    rate_.add_argument(
        "--final",
        type=int,
        nargs=2,
        metavar=("SURVIVORS", "EVALUATED"),
        help="survivors and samples of the final model",
    )
    rate_.add_argument("--seed", type=int, default=0, help="seed of the intervals (default 0)")
    proxy_ = commands.add_parser("proxy", help="print the errors of a taught proxy on the table")
    proxy_.add_argument("weights", help="file of weights, or taught")
    proxy_.add_argument("--reference", type=Path, required=True, help="table of known crystals")
    options = vars(parser.parse_args())
    {"ablation": ablation, "rate": rate, "proxy": proxy}[options.pop("command")](**options)


def ablation(
    variants: Path,
    out: Path,
    reference: Path,
    only: list[str] | None,
    n: int,
    seed: int,
    tries: int,
    timeout: float,
    jobs: int,
) -> None:
    from crystalgfn.atoms.run import Workers
    from crystalgfn.discovery.database import LabelDatabase
    from crystalgfn.discovery.outcome import KnownCrystals, Outcome, decimal, proxy_errors, share
    from crystalgfn.discovery.selection import of_samples, with_shipped_energies

    plan = yaml.safe_load(variants.read_text())
    missing = [name for name in only or [] if name not in plan["variants"]]
    if missing:
        sys.exit(f"--only: {', '.join(missing)} not in {variants}; it has: {', '.join(plan['variants'])}")
    known = KnownCrystals.read(reference)
    database = out / "labels.db"
    rows = []
    for name in only or plan["variants"]:
        folder = out / re.sub(r"\W+", "_", name).strip("_")
        folder.mkdir(parents=True, exist_ok=True)
        train(variant_config(plan, plan["variants"][name] or {}, seed, folder, reference), folder)
        samples = folder / f"samples_{n}_{seed}.csv"
        if not samples.is_file():
            run("predict", "--ckpt_path", folder, "--data.num_samples", n, "--data.seed", seed, "--data.out", samples)
        frame = evaluate(samples, database, name, Workers(jobs, timeout=timeout), tries, seed)
        frame = with_shipped_energies(of_samples(frame, samples, str(database)), LabelDatabase(database).potential)
        outcome, errors = Outcome(frame, known), proxy_errors(frame, "relaxed")
        low, high = outcome.interval
        rows.append(
            [
                name,
                f"{outcome.survivors} of {outcome.evaluated} ({low:.0%} to {high:.0%})",
                f"{outcome.survivors - outcome.holes}; {outcome.holes}",
                "; ".join(
                    str(int((outcome.survives & kept).sum()))
                    for kept in (
                        outcome.keeps_group,
                        outcome.keeps_volume,
                        outcome.keeps_group & outcome.keeps_volume,
                    )
                ),
                str(outcome.evaluated - outcome.relaxed),
                f"{len(outcome.elements)}; {len(outcome.groups)}",
                f"{share(outcome.number_of(outcome.new_formula), outcome.survivors)}; "
                f"{share(outcome.number_of(outcome.new_in_group), outcome.survivors)}",
                decimal(outcome.median),
                f"{decimal(errors.bias, 2)}; {decimal(errors.mae, 2)}",
                f"{outcome.cpu_seconds / 60:.0f}",
            ]
        )
    columns = (
        "variant",
        "survivors (95 %)",
        "within ±0.1; below −0.1",
        "of the survivors, group kept; volume kept; both",
        "failed",
        "elements; groups",
        "new formula; new in its group",
        "above hull, median",
        "proxy less relaxed: mean; mean absolute",
        "CPU min",
    )
    print(f"| {' | '.join(columns)} |")
    print("|---|---|---|---|--:|---|---|--:|---|--:|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def variant_config(
    plan: dict[str, Any], variant: dict[str, Any], seed: int, folder: Path, reference: Path
) -> dict[str, Any]:
    """The complete settings of ``crystalgfn fit`` for one variant."""
    unknown = set(variant) - {"factors", "weights", "set"}
    if unknown:
        sys.exit(f"variants: unknown {', '.join(sorted(unknown))}; allowed: factors, weights, set")
    config = read_config(Path(plan["config"]))
    config = config.get("fit", config)  # configs/discover.yaml has the settings of training under this key
    model, trainer = config["model"], config.setdefault("trainer", {})
    if "factors" in variant:
        rewards = model["reward"]["init_args"]["rewards"]
        absent = [name for name in variant["factors"] if name not in rewards]
        if absent:
            sys.exit(f"factors: {', '.join(absent)} not in {plan['config']}; it has: {', '.join(rewards)}")
        model["reward"]["init_args"]["rewards"] = {name: rewards[name] for name in variant["factors"]}
    if variant.get("weights"):
        proxies = model["proxy"] if isinstance(model["proxy"], list) else [model["proxy"]]
        taught = next(proxy for proxy in proxies if proxy["class_path"].endswith("EnergyAboveHull"))
        taught.setdefault("init_args", {})["weights"] = str(variant["weights"])
    model["seed"] = seed
    trainer |= {"max_steps": plan["steps"], "enable_progress_bar": False, "limit_val_batches": 0}
    trainer["logger"] = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": str(folder), "name": "fit"}}
    trainer["callbacks"] = [
        {"class_path": "crystalgfn.callbacks.Checkpoints", "init_args": {"every_n_steps": min(200, plan["steps"])}}
    ]
    for path, value in (variant.get("set") or {}).items():
        *parents, last = path.split(".")
        place = config
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                sys.exit(f"set: {plan['config']} has no {path}")
            place = place[parent]
        place[last] = with_reference(value, reference)
    return config


def with_reference(value: Any, reference: Path) -> Any:
    """A setting in which ``$REFERENCE`` stands for the table of known crystals."""
    if isinstance(value, dict):
        return {key: with_reference(inner, reference) for key, inner in value.items()}
    return str(reference) if value == "$REFERENCE" else value


def train(config: dict[str, Any], folder: Path) -> None:
    """Train or continue, unless a trained model with the same settings exists."""
    path, done = folder / "fit.yaml", folder / "fit.done"
    text = yaml.safe_dump(config, sort_keys=False)
    if path.is_file() and path.read_text() != text:
        sys.exit(f"{folder}: has a run with other settings, see {path}; use another --out")
    path.write_text(text)
    if not done.is_file():
        run("fit", "--config", path, "--ckpt_path", "last")
        done.touch()


def run(*words: Any) -> None:
    """Run a command of crystalgfn."""
    print("crystalgfn", *words, file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "crystalgfn", *map(str, words)], check=True, stdout=sys.stderr)


def evaluate(samples: Path, database: Path, source: str, workers: Any, tries: int, seed: int) -> pd.DataFrame:
    """Build and relax the samples that are not in the database; returns all rows of the database."""
    from crystalgfn.crystal.tables import read_table
    from crystalgfn.discovery import labelling
    from crystalgfn.discovery.candidate import candidates
    from crystalgfn.discovery.database import LabelDatabase

    labels = LabelDatabase(database)
    labelling.evaluate(candidates(read_table(samples).crystals, source), labels, workers, tries, seed)
    return labels.frame()


def rate(rounds: Path, final: tuple[int, int] | None, seed: int) -> None:
    """Fit and extrapolate the rate of survival."""
    table = pd.read_csv(rounds)
    needed = {"round", "evaluated", "survivors", "drawn", "drawn_survivors", "cpu_seconds"}
    if not needed <= set(table.columns):
        sys.exit(f"{rounds}: missing column(s) {', '.join(sorted(needed - set(table.columns)))}")
    labels, survivors, drawn = points(table, final)
    print("| labels | random samples | survivors |\n|--:|--:|--:|")
    for before, k, m in zip(labels, survivors, drawn, strict=True):
        print(f"| {before:.0f} | {m:.0f} | {k:.0f} ({k / m:.0%}) |")
    if len(labels) < 2 or len(set(labels)) < 2:
        sys.exit("no fit: random samples are needed for at least two different numbers of labels")
    mean, covariance, dispersion = fit(np.log(labels), survivors, drawn)
    chosen = np.random.default_rng(seed).multivariate_normal(mean, covariance, DRAWS)
    each = table["cpu_seconds"].sum() / table["evaluated"].sum()
    slope = np.sqrt(covariance[1, 1])
    print(f"\nlogit(rate) = {mean[0]:.2f} + {mean[1]:.3f} ln(labels); uncertainty of the slope ±{1.96 * slope:.3f} "
          f"(95 %); the variance is {dispersion:.2f} times the binomial one\n")  # fmt: skip
    print("| labels | CPU h of labels | rate | 95 % |\n|--:|--:|--:|---|")
    for factor in (1, 2, 4, 10):
        n = factor * labels[-1]
        low, high = np.quantile(_rate(chosen, n), (0.025, 0.975))
        print(f"| {n:.0f} | {n * each / 3600:.1f} | {_rate(mean[None], n)[0]:.0%} | {low:.0%} to {high:.0%} |")
    needed_labels = np.exp(labels_for(TARGET, chosen))
    best = float(np.exp(labels_for(TARGET, mean[None]))[0])
    low, high = np.quantile(needed_labels, (0.025, 0.975), method="nearest")
    print(f"\nlabels for {TARGET:.0%}: {_number(best)} (95 %: {_number(low)} to {_number(high)}), "
          f"{_number(best * each / 3600)} CPU h of labels; {np.isinf(needed_labels).mean():.0%} of the fits that agree "
          "with the data never reach it.")  # fmt: skip
    print("In later rounds the model was also trained for longer; the fit cannot separate this from the labels.")


def points(table: pd.DataFrame, final: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of earlier labels, survivors and random samples: rounds with random samples, and the final model."""
    before = table["evaluated"].cumsum() - table["evaluated"]
    usable = ((table["drawn"] > 0) & (before > 0)).to_numpy()
    found = [column[usable].to_numpy(dtype=float) for column in (before, table["drawn_survivors"], table["drawn"])]
    if final is not None:
        last = (float(table["evaluated"].sum()), float(final[0]), float(final[1]))
        found = [np.append(column, value) for column, value in zip(found, last, strict=True)]
    return found[0], found[1], found[2]


def fit(x: np.ndarray, k: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Logistic regression of k of n over x by Newton's method.

    Half a count is added to successes and failures (Jeffreys), so that the result is finite.

    Returns:
        (2,) intercept and slope, their (2, 2) covariance, and the factor by which the variance of the data is larger
        than that of a binomial distribution (at least 1). The covariance includes this factor.
    """
    k, n = k + 0.5, n + 1.0
    design = np.stack([np.ones_like(x), x - x.mean()], axis=1)
    beta = np.zeros(2)
    for _ in range(100):
        p = 1 / (1 + np.exp(-design @ beta))
        information = design.T @ (design * (n * p * (1 - p))[:, None])
        step = np.linalg.solve(information, design.T @ (k - n * p))
        beta += step
        if np.abs(step).max() < 1e-12:
            break
    dispersion = 1.0
    if len(x) > 2:
        dispersion = max(1.0, float(((k - n * p) ** 2 / (n * p * (1 - p))).sum() / (len(x) - 2)))
    back = np.array([[1.0, -x.mean()], [0.0, 1.0]])
    return back @ beta, back @ np.linalg.inv(information) @ back.T * dispersion, dispersion


def _rate(coefficients: np.ndarray, labels: float) -> np.ndarray:
    return 1 / (1 + np.exp(-(coefficients[:, 0] + coefficients[:, 1] * np.log(labels))))


def labels_for(share: float, coefficients: np.ndarray) -> np.ndarray:
    """Logarithm of the number of labels at which the rate reaches a share; infinite if that needs more than e^50."""
    intercept, slope = coefficients.T
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = (np.log(share / (1 - share)) - intercept) / slope
    return np.where((slope > 0) & (needed < 50), needed, np.inf)


def _number(value: float) -> str:
    return "never" if np.isinf(value) else f"{value:,.0f}" if value < 1e6 else "more than a million"


def proxy(weights: str, reference: Path) -> None:
    """Print the errors of two sets of weights on the test rows with exact labels, by source."""
    import torch

    from crystalgfn.crystal.tables import read_table
    from crystalgfn.proxies import FormationEnergy

    table = read_table(reference, label="formation_energy", strict=False)
    frame = table.frame.iloc[table.rows.tolist()]
    test = ((frame["split"] == "test") & (frame["formation_energy_kind"] == "exact")).to_numpy()
    chosen = torch.from_numpy(np.flatnonzero(test))
    crystals, label = table.crystals[chosen], table.labels[chosen].numpy()
    is_wbm = (frame["source"] == "wbm").to_numpy()[test]
    print("| weights | rows | n | mean absolute error | mean error | mean uncertainty |\n|---|---|--:|--:|--:|--:|")
    for name, file in (("usual", None), (weights, weights)):
        model = FormationEnergy(file)
        said = [model.predict(crystals[slice(i, i + 2048)]) for i in range(0, len(crystals), 2048)]
        error = torch.cat([p.value for p in said]).numpy() - label
        doubt = torch.cat([p.uncertainty for p in said]).numpy()
        for rows, mask in (("Materials Project", ~is_wbm), ("WBM", is_wbm)):
            print(
                f"| {name} | {rows} | {mask.sum()} | {np.abs(error[mask]).mean():.4f} | {error[mask].mean():+.4f} "
                f"| {doubt[mask].mean():.4f} |"
            )


if __name__ == "__main__":
    main()
