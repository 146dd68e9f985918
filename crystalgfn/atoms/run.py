"""Build many crystals, in parallel, one file a crystal, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from crystalgfn.atoms import isolated, require_extra
from crystalgfn.checks import at_least, one_of, positive
from crystalgfn.errors import InputError
from crystalgfn.files import atomic_path

Backend = Literal["loky", "dask", "ray"]
BACKENDS: tuple[str, ...] = get_args(Backend)

FUNCTION = "crystalgfn.atoms.build:build"
"""What runs for each crystal."""

SETTINGS = "run.json"
CRYSTALS = "crystals"


@dataclass(frozen=True)
class Workers:
    """Where the work is done.

    Attributes:
        jobs: crystals at the same time, one core each.
        backend: ``loky`` for this machine; ``dask`` or ``ray`` for a cluster.
        scheduler: address of the cluster; a local one is started if None.
        timeout: seconds after which a crystal is given up.
    """

    jobs: int = 1
    backend: str = "loky"
    scheduler: str | None = None
    timeout: float = 600.0

    def check(self) -> None:
        """Raise an `InputError` for settings that cannot work."""
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
) -> list[dict[str, Any]]:
    """Build crystals and keep the result of each in a file.

    Args:
        tasks: arguments of the function, each with its ``id``.
        settings: what the results depend on; a folder begun with others is refused.
        out: folder; its ``crystals/ID.json`` are the results.
        workers: where the work is done.
        function: what to run for each, as ``module:name``; it returns a mapping with the task's ``id``.

    Returns:
        the results in the order of the tasks. Which and how many workers there are makes no difference to them, except
        for crystals that take too long.

    A crystal that was given up is tried again if there is more time for it now.

    Raises:
        InputError: if the folder cannot be used or was begun with other settings, or no cluster is reached.
    """
    workers.check()
    folder = prepare_folder(out, settings)
    waiting = [task for task in tasks if not _is_done(folder / f"{task['id']}.json", workers.timeout)]
    for result in results(waiting, workers, function, "build", done=len(tasks) - len(waiting)):
        with atomic_path(folder / f"{result['id']}.json") as temporary:
            temporary.write_text(json.dumps(result))
    return [json.loads((folder / f"{task['id']}.json").read_text()) for task in tasks]


def _is_done(path: Path, timeout: float) -> bool:
    """Whether a crystal has a result that more time cannot change."""
    if not path.is_file():
        return False
    limit = json.loads(path.read_text()).get("gave_up_after")
    return limit is None or limit >= timeout


def prepare_folder(out: Path, settings: Mapping[str, Any]) -> Path:
    """Make the folder, or check that it was begun with the same settings; returns the one for the results."""
    settings = {**settings, **{f"version of {name}": version(name) for name in ("chgnet", "pyxtal", "spglib", "ase")}}
    settings = json.loads(json.dumps(settings))
    path = out / SETTINGS
    try:
        if out.exists() and not out.is_dir():
            raise InputError(f"--out: {out} is a file; give a folder")
        if path.is_file():
            before = json.loads(path.read_text())
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


def file_hash(path: Path) -> str:
    """SHA-256 of a file, shortened: enough to notice that it is another one."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def results(
    tasks: Sequence[Mapping[str, Any]],
    workers: Workers,
    function: str = FUNCTION,
    progress: str | None = None,
    done: int = 0,
) -> Iterator[dict[str, Any]]:
    """Run a function for many tasks, each in a process that is ended when its time is up.

    Args:
        tasks: arguments of the function, each with its ``id``.
        workers: where the work is done.
        function: what to run for each, as ``module:name``.
        progress: what to call a progress bar; None shows none.
        done: tasks of the same work that were done before, for the bar.

    Yields:
        what the function returned, or why it did not (see `crystalgfn.atoms.isolated.attempt`), as they come.

    Raises:
        InputError: for settings that cannot work, or if no cluster is reached.
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
            with joblib.parallel_config(**settings):  # only here: who takes the results may have another backend
                kind = "list" if workers.backend == "ray" else "generator_unordered"
                parallel = joblib.Parallel(return_as=kind, batch_size=1)
            for result in parallel(part):
                bar.update()
                yield result


def _parts(jobs: list[Any], workers: Workers) -> Iterator[list[Any]]:
    """All jobs at once, or for Ray in portions: its backend returns nothing before the last one is done."""
    if workers.backend != "ray":
        yield jobs
        return
    import ray

    size = 4 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]


@contextmanager
def _parallel(workers: Workers) -> Iterator[dict[str, Any]]:
    """The cluster that a backend needs, and the settings of joblib for it."""
    if workers.backend == "loky":
        yield {"backend": "loky", "n_jobs": workers.jobs}
    elif workers.backend == "dask":
        from distributed import Client

        try:
            client = (
                Client(workers.scheduler, timeout=15)
                if workers.scheduler
                # Threads are enough: each has a process of its own for its crystals.
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
