"""Compact storage of facets in a file.

A facet of a small chemical system occurs again in every system that contains it, so that few chemical potentials are
different: 583,000 of 6.2 million for 22 elements. The different potentials of each element are listed in ascending
order, as multiples of `STEP`. The facets refer to places in these lists. Lists and places are compressed with LZMA,
from Python's standard library.
"""

from __future__ import annotations

import lzma
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from crystalgfn.proxies.hull.phases import Floats, Integers

STEP = 1e-7
"""Chemical potentials are rounded to multiples of this [eV/atom]; energies of the hull change by at most half of it."""


def pack_facets(potentials: Floats, elements: Integers) -> dict[str, Tensor]:
    """Pack chemical potentials.

    Args:
        potentials: (f, m) chemical potentials [eV/atom].
        elements: (f, m) index, from 0, of the element of each potential.

    Returns:
        ``sizes`` (k,) int64, how many different potentials each element has; ``steps`` and ``places``, uint8, the
        compressed lists and the compressed (f, m) places in them.
    """
    whole = np.rint(potentials / STEP).astype(np.int64)
    places = np.zeros(whole.shape, dtype=np.uint32)
    lists = []
    for element in range(int(elements.max()) + 1):
        here = elements == element
        values, places[here] = np.unique(whole[here], return_inverse=True)
        lists.append(values)
    sizes = [len(values) for values in lists]
    rises = np.concatenate([np.diff(values, prepend=0) for values in lists])
    return {
        "sizes": torch.tensor(sizes),
        "steps": _compress(rises.astype("<i8")),
        "places": _compress(places.astype(_place_type(max(sizes)))),
    }


def unpack_facets(packed: Mapping[str, Tensor], elements: Integers) -> Floats:
    """The potentials of `pack_facets`, rounded to `STEP`.

    Args:
        packed: what `pack_facets` returned.
        elements: (f, m) the same indices that `pack_facets` got.

    Returns:
        (f, m) chemical potentials [eV/atom].

    Raises:
        ValueError: if the packed facets do not fit the elements or are damaged.
    """
    sizes = packed["sizes"].numpy()
    if sizes.ndim != 1 or len(sizes) <= elements.max() or (sizes < 1).any():
        raise ValueError("the numbers of potentials do not fit the elements")
    ends = np.cumsum(sizes)
    starts = ends - sizes
    rises = _decompress(packed["steps"], "<i8", int(ends[-1]))
    # The rises of each list start from 0: take one running sum, and subtract its value at the start of each list.
    sums = np.concatenate([[0], np.cumsum(rises)])
    values = (sums[1:] - np.repeat(sums[starts], sizes)) * STEP
    places = _decompress(packed["places"], _place_type(int(sizes.max())), elements.size).reshape(elements.shape)
    if (places >= sizes[elements]).any():
        raise ValueError("a facet refers to a potential that does not exist")
    result: Floats = values[places + starts[elements]]
    return result


def _place_type(largest: int) -> str:
    return "<u2" if largest <= 2**16 else "<u4"


def _compress(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.frombuffer(lzma.compress(array.tobytes()), dtype=np.uint8).copy())


def _decompress(data: Tensor, kind: str, count: int) -> np.ndarray:
    """``count`` numbers of a type; damaged data cannot make it use much more memory than the numbers need."""
    expected = count * np.dtype(kind).itemsize
    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    try:
        found = stream.decompress(data.numpy().tobytes(), max_length=expected + 1)
    except lzma.LZMAError as error:
        raise ValueError(f"damaged: {error}") from None
    if len(found) != expected or not stream.eof or stream.unused_data:
        raise ValueError(f"damaged: the size is not the expected {expected} bytes")
    return np.frombuffer(found, dtype=kind)
