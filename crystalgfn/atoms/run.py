"""Build many crystals in parallel. Each result is kept in a file, so that a run that was stopped can be continued."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from crystalgfn.atoms import isolated, require_extra
from crystalgfn.atoms.potentials import DEFAULT
from crystalgfn.checks import at_least, one_of, positive
from crystalgfn.errors import InputError
from crystalgfn.files import atomic_path

Backend = Literal["loky", "dask", "ray"]
BACKENDS: tuple[str, ...] = get_args(Backend)

FUNCTION = "crystalgfn.atoms.build:build"
"""Function that is called for each crystal."""

SETTINGS = "run.json"
CRYSTALS = "crystals"


@dataclass(frozen=True)
class Workers:
    """Where crystals are built, and with which time limit.

    Attributes:
        jobs: number of crystals built at the same time, one core each.
        backend: ``loky`` for this machine; ``dask`` or ``ray`` for a cluster.
        scheduler: address of the cluster; None starts a local one.
        timeout: time limit for each crystal [s].
    """

    jobs: int = 1
    backend: str = "loky"
    scheduler: str | None = None
    timeout: float = 600.0

    def check(self) -> None:
        """Raise an `InputError` if a setting is not allowed or a package is missing."""
        at_least("--jobs", self.jobs, 1)
        one_of("--backend", self.backend, BACKENDS)
        positive("--timeout", self.timeout)
        if self.scheduler is not None and self.backend == "loky":
            raise InputError("--scheduler: only with --backend dask or ray")
        if self.backend != "loky":
            package = {"dask": "distributed", "ray": "ray"}[self.backend]
            try:
                require_extra((package,))
            except InputError:
                raise InputError(f"--backend {self.backend}: the package {package} is not installed") from None


def run(
    tasks: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    out: Path,
    workers: Workers,
    function: str = FUNCTION,
    progress: str = "build",
) -> list[dict[str, Any]]:
    """Build crystals and keep the result of each in a file.

    Results that are already in the folder are used again. A crystal that reached the time limit is built again if the
    limit is longer now.

    Args:
        tasks: one argument of the function for each crystal, with an ``id``.
        settings: all settings that the results depend on. A folder that was begun with other settings is refused.
        out: folder; the result of a crystal is written to ``crystals/ID.json``.
        workers: where crystals are built.
        function: function to call for each task, as ``module:name``; it returns a mapping with the task's ``id``.
        progress: label of the progress bar.

    Returns:
        the results in the order of the tasks. They do not depend on the backend or the number of workers, except for
        crystals that reach the time limit.

    Raises:
        InputError: if a setting is not allowed, the folder cannot be used or was begun with other settings, or there
            is no connection to the cluster.
    """
    workers.check()
    folder = prepare_folder(out, settings)
    waiting = [task for task in tasks if not _is_done(folder / f"{task['id']}.json", workers.timeout)]
    for result in results(waiting, workers, function, progress, done=len(tasks) - len(waiting)):
        with atomic_path(folder / f"{result['id']}.json") as temporary:
            temporary.write_text(json.dumps(result))
    return [json.loads((folder / f"{task['id']}.json").read_text()) for task in tasks]


def _is_done(path: Path, timeout: float) -> bool:
    """Whether there is a result that a longer time limit would not change."""
    if not path.is_file():
        return False
    limit = json.loads(path.read_text()).get("gave_up_after")
    return limit is None or limit >= timeout


def prepare_folder(out: Path, settings: Mapping[str, Any]) -> Path:
    """Make the folder of a run, or check that it was begun with the same settings.

    Args:
        out: the folder.
        settings: all settings that the results depend on.

    Returns:
        the folder inside ``out`` for the results of the crystals.

    Raises:
        InputError: if the folder cannot be used or was begun with other settings.
    """
    settings = {**settings, **{f"version of {name}": version(name) for name in ("pyxtal", "spglib", "ase")}}
    settings = json.loads(json.dumps(settings))
    path = out / SETTINGS
    try:
        if out.exists() and not out.is_dir():
            raise InputError(f"--out: {out} is a file; give a folder")
        if path.is_file():
            before = json.loads(path.read_text())
            if "potential" in settings:
                before.setdefault("potential", DEFAULT)
            changed = [k for k in sorted({*before, *settings}) if before.get(k) != settings.get(k)]
            if changed:
                what = "; ".join(f"{k}: then {before.get(k)}, now {settings.get(k)}" for k in changed)
                raise InputError(f"--out: {out} was begun with other settings ({what}); use them, or another folder")
        elif out.is_dir() and any(out.iterdir()):
            raise InputError(f"--out: {out} is not empty and holds no run of this command; give another folder")
        (out / CRYSTALS).mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(settings, indent=1) + "\n")
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"--out: {out} cannot be used: {error}") from None
    return out / CRYSTALS


def kept(out: Path) -> str:
    """Message for an interrupted run: how many crystals are in its folder, and which command continues it."""
    done = len(list((out / CRYSTALS).glob("*.json")))
    return f"{done} crystals are finished and kept in {out / CRYSTALS}; the same command continues with the others"


def results(
    tasks: Sequence[Mapping[str, Any]],
    workers: Workers,
    function: str = FUNCTION,
    progress: str | None = None,
    done: int = 0,
) -> Iterator[dict[str, Any]]:
    """Call a function for many tasks, each in a process with a time limit.

    Args:
        tasks: one argument of the function for each call, with an ``id``.
        workers: where the calls are made.
        function: the function, as ``module:name``.
        progress: label of the progress bar; None for no progress bar.
        done: number of tasks that were done before; the progress bar includes them.

    Yields:
        the results as they arrive: the return value of the function, or the reason of a failure (see
        `crystalgfn.atoms.isolated.attempt`).

    Raises:
        InputError: if a setting is not allowed, or there is no connection to the cluster.
    """
    import joblib
    from tqdm import tqdm

    workers.check()
    if not tasks:
        return
    hidden = progress is None
    bar = tqdm(total=done + len(tasks), initial=done, unit="crystal", desc=progress, disable=hidden)
    with _parallel(workers) as settings, bar:
        jobs = [joblib.delayed(isolated.attempt)(function, dict(task), workers.timeout) for task in tasks]
        for part in _parts(jobs, workers):
            with joblib.parallel_config(**settings):  # the caller may use another backend between results
                kind = "list" if workers.backend == "ray" else "generator_unordered"
                parallel = joblib.Parallel(return_as=kind, batch_size=1)
            for result in parallel(part):
                bar.update()
                yield result


def _parts(jobs: list[Any], workers: Workers) -> Iterator[list[Any]]:
    """All jobs at once; portions for Ray, because its backend returns no result before the last job is done."""
    if workers.backend != "ray":
        yield jobs
        return
    import ray

    size = 4 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]


@contextmanager
def _parallel(workers: Workers) -> Iterator[dict[str, Any]]:
    """Connect to the cluster that a backend needs, or start one, and yield the settings of joblib."""
    if workers.backend == "loky":
        yield {"backend": "loky", "n_jobs": workers.jobs}
    elif workers.backend == "dask":
        from distributed import Client

        try:
            client = (
                Client(workers.scheduler, timeout=15)
                if workers.scheduler
                # Threads are enough because each thread builds its crystals in a process of its own.
                else Client(processes=False, n_workers=1, threads_per_worker=workers.jobs, dashboard_address=None)
            )
        except (OSError, ValueError) as error:
            raise InputError(f"--scheduler: no Dask scheduler at {workers.scheduler}: {error}") from None
        with client:
            yield {"backend": "dask", "n_jobs": -1 if workers.scheduler else workers.jobs}
    else:
        import ray
        from ray.util.joblib import register_ray

        try:
            ray.init(
                address=workers.scheduler, num_cpus=None if workers.scheduler else workers.jobs, log_to_driver=False
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(f"--scheduler: no Ray cluster at {workers.scheduler}: {error}") from None
        register_ray()
        try:
            yield {"backend": "ray", "n_jobs": -1 if workers.scheduler else workers.jobs}
        finally:
            ray.shutdown()
