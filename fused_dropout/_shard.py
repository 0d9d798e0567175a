"""The position of a shard in the full tensor."""

import dataclasses
import operator

import torch


@dataclasses.dataclass(frozen=True)
class Shard:
    """The position of a tensor in a larger, global tensor, whose mask it gets a part of.

    Pass it as `shard=` to the functions of `fused_dropout.functional`. If all ranks use the same
    state (`rng_state=`), or generators with the same seed, each rank computes its part of the
    result for the global tensor. The result does not depend on the dimensions that are split or on
    the number of ranks.

    The global tensor never has to exist, and nothing is communicated. Ranks with different states
    compute parts of different masks. If the ranks have no generators with the same seed, broadcast
    one state:

        state = fd.new_rng_state(x.device)
        torch.distributed.broadcast(state, src=0)

    Equivalent PyTorch code, for `part = full[a : a + m, b : b + n]`: these two lines give the
    same result.

        FF.dropout(full, p, rng_state=state)[a : a + m, b : b + n]
        FF.dropout(part, p, rng_state=state, shard=fd.Shard(full.shape, (a, b)))

    Args:
        shape: sizes of the global tensor, as many as the shard has dimensions.
        offsets: index of the shard's first element in the global tensor, along each dimension. The
            sizes of the shard are those of the tensor.
        order: the dimensions of the global tensor in memory order, outermost first. The index of
            an element depends on this order (see "The random-number contract"). None means the
            memory order of the shard: if the shard is in channels-last format, so is the global
            tensor. Strides do not always tell the order if the shard has size 1 along a dimension.
            Pass the order in this case, such as (0, 2, 3, 1) for channels-last.

    Raises:
        TypeError: if a number is not an integer.
        ValueError: if `shape` and `offsets` differ in length, an offset lies outside of the global
            tensor, or `order` does not name each dimension once. The function that gets the shard
            raises an error if the tensor does not fit into the global tensor.
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
                    f"{shape[dim]}, the size of the global tensor"
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
        """Returns shard number `index` of `count` shards along `dim`, all as large as `x`.

        For shards of different sizes use the constructor. `torch.chunk`, for example, makes chunks
        of `n = -(-size // count)` elements, and chunk number `index` starts at `n * index`.

        Args:
            x: the shard, or its sizes.
            dim: the dimension that is split. Negative values count from the end.
            index: number of the shard, from 0. In data, sequence or tensor parallelism, the rank.
            count: number of shards, usually the number of ranks.

        Returns:
            Shard: the position of `x`.

        Raises:
            IndexError: if `x` has no dimension `dim`.
            ValueError: unless `0 <= index < count`.
        """
        sizes = x.shape if isinstance(x, torch.Tensor) else x
        sizes = _integers("x", sizes)
        return cls(sizes, (0,) * len(sizes)).along(dim, index, count)

    def along(self, dim, index, count):
        """Splits the global tensor along one more dimension.

        The global tensor of the result consists of `count` tensors along `dim`, each as large as
        the global tensor of this shard. This shard belongs to number `index` of them. Use it for
        tensors that are split along several dimensions:

            fd.Shard.of(x, 0, data_rank, data_ranks).along(1, sequence_rank, sequence_ranks)

        Args:
            dim: the dimension. Negative values count from the end.
            index: number of the global tensor that this shard belongs to, from 0.
            count: number of global tensors along `dim`.

        Returns:
            Shard: the position in the larger global tensor.
        """
        ndim = len(self.shape)
        dim, index, count = _integers("dim, index, count", (dim, index, count))
        if not -ndim <= dim < ndim:
            raise IndexError(f"Shard: dim is {dim}, but the shard has {ndim} dimensions")
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
        """Returns the position of `tensor.to_local()` in a `torch.distributed.tensor.DTensor`.

        Shards may be uneven or empty, and a dimension may be split over several dimensions of the
        mesh. Call this method outside of compiled code.

        Args:
            tensor: a DTensor with the placements `Shard` and `Replicate`. This rank must belong to
                its mesh.

        Returns:
            Shard: the position of the local tensor.

        Raises:
            TypeError: if `tensor` is not a DTensor.
            ValueError: if the tensor has another placement, or this rank is not in the mesh. A
                `Partial` tensor has to be reduced first. A strided shard is not contiguous in the
                global tensor.
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
            # As in torch.chunk: full chunks, then one smaller chunk, then empty ones.
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
