"""Tests that every proxy must pass."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from crystalgfn.errors import InputError
from crystalgfn.gflownet.proxies.base import Proxy
from crystalgfn.gflownet.proxies.names import check_property_name
from crystalgfn.testing.generators import assert_untouched, global_generators


class ProxyContract:
    """Tests of one proxy; subclass it in a test file and provide the fixtures ``proxy`` and ``objects``.

    ``objects`` is a batch as returned by an environment's ``decode``. Indexing it with a slice or with a tensor of rows
    must give a batch again. Use at least three different objects.
    """

    @pytest.fixture
    def tolerance(self) -> float:
        """Largest relative and absolute difference between values of the same object in different batches."""
        return 1e-5

    def test_declares_its_property(self, proxy: Proxy) -> None:
        """Name, unit, direction and valid range are defined and valid."""
        kind = type(proxy).__name__
        name = getattr(proxy, "name", None)
        try:
            check_property_name(f"{kind}.name", name)
        except InputError as error:
            raise AssertionError(str(error)) from None
        assert isinstance(proxy.unit, str), f"{kind}.unit is {proxy.unit!r}; it must be a string"
        assert proxy.direction in ("minimize", "maximize"), (
            f"{kind}.direction is {proxy.direction!r}; it must be 'minimize' or 'maximize'"
        )
        low, high = proxy.valid_range
        assert low < high, f"{kind}.valid_range is {proxy.valid_range}; it must be (low, high) with low < high"

    def test_one_finite_value_for_each_object(self, proxy: Proxy, objects: Any) -> None:
        """The values are a floating-point tensor of shape (n,), and all of them are finite."""
        values = _evaluate(proxy, objects)
        assert values.shape == (len(objects),), (
            f"{len(objects)} objects give shape {tuple(values.shape)}; it must be ({len(objects)},)"
        )
        assert values.is_floating_point(), f"values are {values.dtype}; they must be floating point"
        bad = (~values.isfinite()).nonzero()[:, 0].tolist()
        assert not bad, f"values are not finite for the objects in rows {bad}"

    def test_prediction_agrees_with_forward(self, proxy: Proxy, objects: Any, tolerance: float) -> None:
        """``predict`` gives the values of ``forward``, and uncertainties exactly if ``has_uncertainty`` is true."""
        with torch.no_grad():
            prediction = proxy.eval().predict(objects)
        torch.testing.assert_close(prediction.value, _evaluate(proxy, objects), rtol=tolerance, atol=tolerance)
        kind, uncertainty = type(proxy).__name__, prediction.uncertainty
        assert (uncertainty is not None) == proxy.has_uncertainty, (
            f"{kind}.has_uncertainty is {proxy.has_uncertainty}, but predict gives "
            f"{'none' if uncertainty is None else 'one'}"
        )
        if uncertainty is not None:
            assert uncertainty.shape == (len(objects),), (
                f"{len(objects)} objects give an uncertainty of shape {tuple(uncertainty.shape)}"
            )
            assert (uncertainty.isfinite() & (uncertainty >= 0)).all(), "uncertainties must be finite and 0 or more"

    def test_rows_do_not_interact(self, proxy: Proxy, objects: Any, tolerance: float) -> None:
        """A batch gives the same values as its objects one by one, in any order."""
        values = _evaluate(proxy, objects)
        order = torch.randperm(len(objects), generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(
            _evaluate(proxy, objects[order]),
            values[order],
            rtol=tolerance,
            atol=tolerance,
            msg=lambda m: f"values depend on the order of the objects\n{m}",
        )
        single = torch.cat([_evaluate(proxy, objects[i : i + 1]) for i in range(len(objects))])
        torch.testing.assert_close(
            single,
            values,
            rtol=tolerance,
            atol=tolerance,
            msg=lambda m: f"values depend on the other objects of the batch\n{m}",
        )

    @pytest.mark.parametrize("n", [0, 1])
    def test_small_batches(self, proxy: Proxy, objects: Any, n: int) -> None:
        """A batch without objects and a batch of one object are evaluated like any other batch."""
        values = _evaluate(proxy, objects[:n])
        assert values.shape == (n,), f"{n} objects give shape {tuple(values.shape)}; it must be ({n},)"

    def test_modes(self, proxy: Proxy, objects: Any) -> None:
        """A proxy that knows modes gives the mode of each object, or -1 if the object is in none."""
        if not proxy.knows_modes:
            return
        n = proxy.n_modes(objects[:0])
        modes = proxy.modes(objects)
        assert n >= 0, f"n_modes is {n}; it must be 0 or more"
        assert modes.shape == (len(objects),), f"{len(objects)} objects give modes of shape {tuple(modes.shape)}"
        assert modes.dtype == torch.int64, f"modes are {modes.dtype}; they must be int64"
        assert ((modes >= -1) & (modes < n)).all(), f"modes must be -1, or from 0 to {n - 1}"

    def test_deterministic(self, proxy: Proxy, objects: Any) -> None:
        """The same objects give the same values, and no global generator is used."""
        before = global_generators()
        first, second = _evaluate(proxy, objects), _evaluate(proxy, objects)
        assert_untouched(before, "the proxy")
        assert torch.equal(first, second), "evaluating the same objects twice gives different values"

    def test_objects_are_not_modified(self, proxy: Proxy, objects: Any) -> None:
        """The proxy does not modify the objects."""
        before = copy.deepcopy(objects)
        _evaluate(proxy, objects)
        for one, two in zip(_tensors(before), _tensors(objects), strict=True):
            assert torch.equal(one, two), "the proxy modifies the objects in place"


@torch.no_grad()
def _evaluate(proxy: Proxy, objects: Any) -> Tensor:
    # As in training, the proxy is in evaluation mode and computes no gradients.
    values = proxy.eval()(objects)
    assert isinstance(values, Tensor), f"a proxy returns a tensor, not {type(values).__name__}"
    return values


def _tensors(objects: Any) -> list[Tensor]:
    """All tensors in a batch of objects, which may be nested dataclasses, mappings or sequences."""
    if isinstance(objects, Tensor):
        return [objects]
    if is_dataclass(objects):
        return [t for field in fields(objects) for t in _tensors(getattr(objects, field.name))]
    if isinstance(objects, Mapping):
        return [t for value in objects.values() for t in _tensors(value)]
    if isinstance(objects, Sequence) and not isinstance(objects, str | bytes):
        return [t for value in objects for t in _tensors(value)]
    return []
