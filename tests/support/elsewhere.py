"""What would go wrong on a GPU, found on the CPU: tensors made on the host, and waits of the host for the device."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import crystalgfn
import crystalgfn.callbacks

FACTORIES = {
    "tensor", "as_tensor", "scalar_tensor", "from_numpy", "zeros", "ones", "full", "empty", "arange", "linspace", "eye",
    "rand", "randn", "randint", "randperm", "tril_indices", "triu_indices",
}  # fmt: skip
"""Functions of torch that make a tensor on the host unless they are told a device."""

WAITS = {
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount",
    "equal", "is_nonzero",
}  # fmt: skip
"""Operations that need a value of the device on the host: a number, or the size of their result."""

ON_HOST = {"exploration.py"}
"""Files whose tensors are single numbers of the host, which never meet others."""

OWN = [str(Path(package.__file__).parent) for package in (crystalgfn, crystalgfn.callbacks)]


def _caller() -> str:
    """File and line of the package that is at work; empty if it is not."""
    frame = sys._getframe(1)
    while frame is not None:
        if any(frame.f_code.co_filename.startswith(folder) for folder in OWN):
            file = Path(frame.f_code.co_filename).name
            return file if file in ON_HOST else f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


class HostWork:
    """Collects, while it is entered, what a GPU would not do by itself; for work on tensors that exist before.

    Attributes:
        made: function and line where the package makes a tensor without saying on which device, or takes one to the
            host.
        waits: operation and line where the host needs a value of the device; the line is empty where the package is
            not at work.
    """

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        # On CUDA `one_hot` does not look at its input if it knows the number of classes.
        self.in_one_hot = False
        self._modes = ExitStack()

    def __enter__(self) -> HostWork:
        self._modes.enter_context(_Functions(self))
        self._modes.enter_context(_Operations(self))
        return self

    def __exit__(self, *args: object) -> None:
        self._modes.close()


class _Functions(TorchFunctionMode):
    def __init__(self, work: HostWork) -> None:
        super().__init__()
        self.work = work

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        makes = name in FACTORIES and kwargs.get("device") is None and not (args and isinstance(args[0], Tensor))
        if (makes or name in ("cpu", "numpy", "tolist")) and (caller := _caller()) and caller not in ON_HOST:
            self.work.made[f"{name} at {caller}"] += 1
        self.work.in_one_hot = name == "one_hot" and len(args) + len(kwargs) > 1
        result = func(*args, **kwargs)
        self.work.in_one_hot = False
        return result


class _Operations(TorchDispatchMode):
    def __init__(self, work: HostWork) -> None:
        super().__init__()
        self.work = work

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.__name__.partition(".")[0]
        indices = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        by_mask = any(isinstance(i, Tensor) and i.dtype == torch.bool for i in indices)
        # Without the size of the result it is worked out first.
        repeats = name == "repeat_interleave" and kwargs.get("output_size") is None
        if (name in WAITS or by_mask or repeats) and not self.work.in_one_hot and (caller := _caller()) not in ON_HOST:
            self.work.waits[f"{name} at {caller}"] += 1
        return func(*args, **kwargs)
