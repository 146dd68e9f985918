"""Run every command once, with tiny budgets, as a user of the installed package does.

Usage: python every_command.py   (in an empty folder, with the environment's own Python)
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

import crystalgfn
from crystalgfn.cli import COMMANDS

assert find_spec("pytest") is None, "this environment has the developer's tools"
ran: set[str] = set()


def run(line: str, *files: str) -> None:
    """Run a command and check that it ends well and leaves these files."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "crystalgfn", *line.split()], capture_output=True, text=True, check=False
    )
    ran.add(line.split(maxsplit=1)[0])
    print(f"{time.monotonic() - start:5.1f} s  crystalgfn {line}", flush=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    for file in files:
        assert Path(file).stat().st_size, file


QUIET = "--trainer.enable_progress_bar false --trainer.enable_model_summary false"
package = Path(crystalgfn.__file__).parent
shipped = [file for file in package.rglob("*") if file.suffix in (".pt", ".ckpt", ".parquet")]
assert len(shipped) >= 6, shipped
assert all((file.parent / "ATTRIBUTION.md").is_file() for file in shipped), "a shipped file has no attribution"

labels = pd.read_parquet(package / "discovery" / "data" / "labels.parquet").drop_duplicates("key")
known = labels[["formula", "space_group", "a", "b", "c", "alpha", "beta", "gamma", "formation_energy"]].head(150)
known.to_csv("known.csv", index=False)

run("list")
run(f"fit --config eform.yaml --trainer.max_steps 3 --data.num_val_samples 50 {QUIET}")
run(f"validate --ckpt_path logs/eform --data.num_val_samples 50 {QUIET}")
run(f"test --ckpt_path logs/eform --data.num_samples 50 {QUIET}")
run(f"predict --ckpt_path logs/eform --data.num_samples 50 {QUIET}", "samples.csv")
cubic = "--data.num_samples 3 --data.restrict restrictions/small_cubic.yaml --data.out cubic.csv"
run(f"predict --ckpt_path discovered {cubic} {QUIET}", "cubic.csv")
run(f"predict --ckpt_path universal --data.num_samples 3 --data.out real.csv {QUIET}", "real.csv")
tiny_prior = "--model.data_set.only null --model.data_set.validate 0.1 --trainer.max_steps 2"
run(f"fit --config prior.yaml --model.data_set.table known.csv {tiny_prior} --data.num_val_samples 5 {QUIET}")
run("likelihood known.csv --ckpt_path discovered --out likelihood.csv", "likelihood.csv", "likelihood.json")
run("score known.csv --proxy BandGap --out scored.csv", "scored.csv")
run("evaluate samples.csv --reference known.csv --out report", "report/index.html", "report/metrics.json")
run("build-hull known.csv --elements Li Na K Mg Mn Fe Co Ni Cu H N O F P S Cl Se --out hull.pt", "hull.pt")
tiny = (
    "--network.members 1 --network.hidden 16 --network.embedding 8 --optimizer.epochs 1 --optimizer.min_steps 5 "
    "--error.epochs 1"
)
run(f"train-proxy --data.path known.csv --data.label formation_energy --unit eV/atom --out own.pt {tiny}", "own.pt")
run(
    "tune-proxy --new known.csv --label formation_energy --tuning.steps 3 --tuning.error_steps 3 --out tuned.pt",
    "tuned.pt",
)
run("build cubic.csv --out structures --tries 1 --relax --jobs 2", "structures/structures.csv")
run("label cubic.csv --db labels.db --tries 1 --random 1 --config near_hull.yaml --timeout 120", "labels.db")
run("discovery-page --db labels.db --reference known.csv --out page", "page/index.md")

cifs = sorted(Path("structures/cif").glob("*.cif"))
assert cifs, "no crystal was built"
pd.DataFrame({"material_id": [file.stem for file in cifs], "cif": [file.read_text() for file in cifs]}).to_csv(
    "cifs.csv"
)
built = pd.read_csv("structures/structures.csv").dropna(subset=["formation_energy_relaxed"])
rows = pd.DataFrame({"material_id": built["id"], "formula": built["formula"]})
rows.assign(formation_energy=built["formation_energy_relaxed"]).to_csv("energies.csv", index=False)
run("references energies.csv cifs.csv --out references.json", "references.json")
judged = ("judged/judged.csv", "judged/judged.json", "judged/index.html")
run("judge structures --potential chgnet --reference cifs.csv --jobs 2 --out judged", *judged)

salt = {
    "@module": "pymatgen.core.structure",
    "@class": "Structure",
    "lattice": {"matrix": [[0, 2.82, 2.82], [2.82, 0, 2.82], [2.82, 2.82, 0]]},
    "sites": [
        {"species": [{"element": "Na", "occu": 1}], "abc": [0, 0, 0]},
        {"species": [{"element": "Cl", "occu": 1}], "abc": [0.5, 0.5, 0.5]},
    ],
}
content = {"index": [0], "columns": ["structure", "gap pbe"], "data": [[salt, 5.0]]}
with gzip.open("matbench_mp_gap.json.gz", "wt") as file:
    json.dump(content, file)
run("import-matbench matbench_mp_gap --file matbench_mp_gap.json.gz --out gaps.csv", "gaps.csv")

small = (
    "--first_steps 2 --steps 2 --final_steps 2 --rounds 1 --evaluations 1 --final 1 --start.random 1 "
    "--start.perturbed 0 --start.real 0 --screen.pool 20 --label.tries 1 --label.timeout 120 "
    "--tuning.steps 2 --tuning.error_steps 2"
)
run(f"discover --config discover.yaml --out run {small}", "run/final/summary.json", "run/labels.db")

missing = set(COMMANDS) - ran
assert not missing, f"these commands were not run: {', '.join(sorted(missing))}"
print(f"{len(ran)} commands ran")
