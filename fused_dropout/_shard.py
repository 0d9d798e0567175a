"""Where a part of a tensor lies in the whole."""

import dataclasses
import operator

import torch


@dataclasses.dataclass(frozen=True)
class Shard:
    """Says which part of a larger tensor a tensor is, so that it gets that part of the mask.

    Passed as ``shard=`` to the functions of :mod:`fused_dropout.functional`. With one state
    (``rng_state=``) on all ranks, or equally seeded generators, the parts that they compute are the
    whole's result, cut: whatever the dimensions it is split along and the number of parts.
    Equivalent PyTorch code, for a ``part = whole[a : a + m, b : b + n]``::

        FF.dropout(whole, p, rng_state=state)[a : a + m, b : b + n]
        FF.dropout(part, p, rng_state=state, shard=fd.Shard(whole.shape, (a, b)))

    The whole need not exist anywhere, and nothing is communicated. Ranks that share no state draw
    each its own, and their parts are parts of different wholes. A state for all of them, where no
    equally seeded generators are at hand::

        state = fd.new_rng_state(x.device)
        torch.distributed.broadcast(state, src=0)

    Args:
        shape: sizes of the whole, one for each dimension of the part.
        offsets: where the part starts, one for each dimension. Its sizes are the tensor's own.
        order: the dimensions of the whole as they lie in memory, outermost first, which decides
            about the index of an element (see "The random-number contract" in the README). If None
            it is that of the tensor: a part in channels-last is part of a whole in channels-last.
            Where the part has one element along a dimension, that dimension's place is known by its
            stride alone, and by that not always: then (0, 2, 3, 1) says channels-last.

    Raises:
        TypeError, ValueError: numbers that are not integers, lengths that differ, an offset outside
            the whole, an ``order`` that does not name each dimension once. A part that does not fit
            is an error of the function that gets it.
    """

    shape: tuple
    offsets: tuple
    order: tuple | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self):
        shape = _integers("shape", self.shape)
        offsets = _integers("offsets", self.offsets)
        order = self.order
        if len(offsets) != len(shape):
            raise ValueError(
                f"Shard: offsets has {len(offsets)} entries, but expected {len(shape)}, as many as "
                "shape"
            )
        for dim in range(len(shape)):
            if shape[dim] < 0:
                raise ValueError(
                    f"Shard: shape has {shape[dim]} in dimension {dim}, but expected 0 or more"
                )
            if not 0 <= offsets[dim] <= shape[dim]:
                raise ValueError(
                    f"Shard: offsets has {offsets[dim]} in dimension {dim}, but expected 0 to "
                    f"{shape[dim]}, the whole's size"
                )
        if order is not None:
            order = _integers("order", order)
            if sorted(order) != list(range(len(shape))):
                raise ValueError(
                    f"Shard: order is {order}, but expected each of the dimensions 0 to "
                    f"{len(shape) - 1} once"
                )
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "order", order)

    @classmethod
    def of(cls, x, dim, index, count):
        """The ``index``-th of ``count`` equal parts along ``dim``, each as large as ``x``.

        Args:
            x: the part, or its sizes.
            dim: the dimension that is split; negative ones count from the end.
            index: which part ``x`` is, from 0: the rank, for data, sequence or tensor parallelism.
            count: how many parts there are: the number of ranks.

        Parts that differ in size need the constructor: ``torch.chunk`` makes parts of
        ``n = -(-size // count)`` elements, of which the ``index``-th starts at ``n * index``.
        """
        sizes = x.shape if isinstance(x, torch.Tensor) else x
        sizes = _integers("x", sizes)
        return cls(sizes, (0,) * len(sizes)).along(dim, index, count)

    def along(self, dim, index, count):
        """The same part, where this whole is the ``index``-th of ``count`` equal parts of another.

        For tensors that are split along several dimensions::

            fd.Shard.of(x, 0, data_rank, data_ranks).along(1, sequence_rank, sequence_ranks)
        """
        ndim = len(self.shape)
        dim, index, count = _integers("dim, index, count", (dim, index, count))
        if not -ndim <= dim < ndim:
            raise IndexError(f"Shard: dim is {dim}, but the part has {ndim} dimensions")
        if not 0 <= index < count:
            raise ValueError(
                f"Shard: index is {index} and count is {count}, but expected 0 <= index < count"
            )
        dim %= ndim
        shape, offsets = list(self.shape), list(self.offsets)
        offsets[dim] += shape[dim] * index
        shape[dim] *= count
        return Shard(tuple(shape), tuple(offsets), order=self.order)

    @classmethod
    def from_dtensor(cls, tensor):
        """The place of ``tensor.to_local()`` in the :class:`torch.distributed.tensor.DTensor`.

        Uneven parts, empty ones, and dimensions split over several dimensions of the mesh are fine.
        To be called outside of compiled code.

        Args:
            tensor: a DTensor whose placements are ``Shard`` and ``Replicate``, on a mesh that this
                rank belongs to.

        Raises:
            TypeError: ``tensor`` is no DTensor.
            ValueError: another placement (what a ``Partial`` holds is to be summed up first; a
                strided part does not lie in one piece), or a rank outside of the mesh.
        """
        from torch.distributed.tensor import DTensor, Replicate
        from torch.distributed.tensor import Shard as Split

        if not isinstance(tensor, DTensor):
            raise TypeError(f"Shard: tensor is a {type(tensor).__name__}, but expected a DTensor")
        mesh = tensor.device_mesh
        coordinate = mesh.get_coordinate()
        if coordinate is None:
            raise ValueError(f"Shard: this rank is not in the mesh of tensor, {mesh}")
        sizes, offsets = list(tensor.shape), [0] * tensor.dim()
        for mesh_dim, placement in enumerate(tensor.placements):
            if type(placement) is Replicate:
                continue
            if type(placement) is not Split:
                raise ValueError(
                    f"Shard: tensor has the placement {placement!r}, but expected Shard or "
                    "Replicate"
                )
            dim, count = placement.dim, mesh.size(mesh_dim)
            # As torch.chunk: full chunks, one that is not, and empty ones.
            chunk = -(-sizes[dim] // count)
            start = min(chunk * coordinate[mesh_dim], sizes[dim])
            offsets[dim] += start
            sizes[dim] = min(chunk, sizes[dim] - start)
        return cls(tuple(tensor.shape), tuple(offsets))


def _integers(name, values):
    try:
        return tuple([_integer(value) for value in values])
    except TypeError:
        raise TypeError(f"Shard: {name} is {values!r}, but expected integers") from None


def _integer(value):
    return value if isinstance(value, (int, torch.SymInt)) else operator.index(value)
