"""Nested tensors, jagged and strided: a call works on the tensor of their values."""

import torch


def on_values(
    function,
    call,
    x,
    *,
    inplace=False,
    same=None,
    rows=None,
    last=0,
    bias_dim=None,
    shared_dims=(),
    noise_shape=None,
    shard=None,
    argument="x",
):
    """Calls ``call(values, …)`` with translated arguments, and nests its results as ``x`` is.

    Args:
        inplace: whether to write the result into ``x``.
        same: dict from argument names to tensors with the shape of ``x``, or None.
        last: how many of the last dimensions have to be regular.
        rows: like ``same``, without these dimensions.
        bias_dim, shared_dims, noise_shape: they refer to ``x``; if they are given, ``call`` gets
            those that refer to the values.
    """
    if shard is not None:
        raise ValueError(
            f"{function}: shard is given, but {argument} is a nested tensor: pass its values"
        )
    parts = _Parts(function, argument, x)
    for dim in range(-last, 0):
        parts.values_dim(None, dim)
    arguments = {}
    for tensors, without in ((same or {}, 0), (rows or {}, last)):
        for name, tensor in tensors.items():
            arguments[name] = None if tensor is None else parts.values_of(name, tensor, without)
    if bias_dim is not None:
        arguments["bias_dim"] = parts.values_dim("bias_dim", bias_dim)
    if shared_dims:
        arguments["shared_dims"] = [parts.values_dim("shared_dims", dim) for dim in shared_dims]
    if noise_shape is not None:
        arguments["noise_shape"] = parts.noise_shape(noise_shape)
    if inplace:
        _check_inplace(function, x)
        if torch.compiler.is_compiling():  # operators that write into views cannot be traced
            parts.values.copy_(call(parts.values, **arguments))
        else:
            call(parts.values, inplace=True, **arguments)
        return x
    result = call(parts.values, **arguments)
    if isinstance(result, tuple):
        return tuple(parts.nested(one) for one in result)
    return parts.nested(result)


def _check_inplace(function, x):
    """Raises an error if the values cannot be written in place, or autograd would not notice."""
    if torch.is_grad_enabled() and x.requires_grad:
        raise RuntimeError(
            f"{function}: inplace is True, but x is a nested tensor that requires grad"
        )
    if x.layout == torch.strided and not x.is_contiguous():
        raise RuntimeError(
            f"{function}: inplace is True, but x is a nested tensor that is not contiguous"
        )


class _Parts:
    """The parts of a nested tensor, which follow each other in its values."""

    def __init__(self, function, argument, x):
        self.function, self.argument = function, argument
        self.x = x
        self.ndim = x.dim()
        if x.layout == torch.jagged:
            self.values = x.values()
            self.ragged = x._ragged_idx
            return
        # Values in memory order; like those of a jagged tensor if only one dimension differs.
        self.x = x = x.contiguous()
        self.values, self.ragged = x.values(), None
        self.sizes = x._nested_tensor_size()
        if (
            self.sizes.dim() == 2
            and self.sizes.numel() > 0
            and bool((self.sizes[:, 1:] == self.sizes[0, 1:]).all())
        ):
            self.ragged = 1
            trailing = self.sizes[0, 1:].tolist()
            self.values = self.values.view(int(self.sizes[:, 0].sum()), *trailing)

    def values_dim(self, name, dim):
        """The dimension of the values that corresponds to a dimension of the nested tensor.

        ``name``: the argument that names the dimension; None if the function itself needs it.
        """
        if not -self.ndim <= dim < self.ndim:
            raise IndexError(
                f"{self.function}: {name} has {dim}, but {self.argument} has {self.ndim} dimensions"
            )
        nested_dim = dim % self.ndim
        if nested_dim in (0, self.ragged) or self.ragged is None:
            subject = f"dimension {dim} of {self.argument}, a nested tensor,"
            if name is not None:
                subject = f"{name} names {subject} which"
            raise ValueError(
                f"{self.function}: {subject} is {'its batch' if nested_dim == 0 else 'ragged'}, "
                "but expected one along which all parts have the same size"
            )
        return nested_dim - 1

    def noise_shape(self, noise_shape):
        if len(noise_shape) != self.ndim:
            raise ValueError(
                f"{self.function}: noise_shape has {len(noise_shape)} entries, but "
                f"{self.argument} has {self.ndim} dimensions"
            )
        for dim, wanted in enumerate(noise_shape):
            if wanted is not None and (dim > 0 or wanted != self.x.size(0)):
                self.values_dim("noise_shape", dim)
        return noise_shape[1:] if self.ragged is not None else (None,)

    def values_of(self, name, other, without):
        """The values of another tensor with the same parts, ``without`` some last dimensions."""
        if not isinstance(other, torch.Tensor) or not other.is_nested:
            raise TypeError(
                f"{self.function}: {name} is not nested, but {self.argument} is, and expected one "
                "with the same offsets"
            )
        if other.layout == self.x.layout == torch.jagged:
            if tuple(other.shape) == tuple(self.x.shape)[: self.ndim - without]:
                return other.values()
        elif other.layout == self.x.layout:
            sizes = self.sizes[:, : self.sizes.shape[-1] - without]
            if torch.equal(other._nested_tensor_size(), sizes):
                shape = self.values.shape[: self.values.dim() - without]
                return other.contiguous().values().view(shape)
        raise ValueError(
            f"{self.function}: {name} has other parts than {self.argument}, but expected a nested "
            "tensor of its layout and with its offsets"
        )

    def nested(self, values):
        x = self.x
        if x.layout == torch.jagged:
            return torch.nested.nested_tensor_from_jagged(
                values,
                x.offsets(),
                x.lengths(),
                jagged_dim=x._ragged_idx,
                min_seqlen=x._maybe_min_seqlen,
                max_seqlen=x._maybe_max_seqlen,
            )
        if self.sizes.dim() < 2:  # there are no parts
            return x.to(values.dtype)
        # The first dimensions may differ between parts; the rest are those of the result.
        tail = torch.tensor(values.shape[1:], dtype=torch.int64, device="cpu")
        lead = self.sizes[:, :1] if self.ragged is not None else self.sizes
        sizes = torch.cat([lead, tail.expand(len(lead), -1)], 1)
        layout = torch._nested_compute_contiguous_strides_offsets(sizes)
        return torch._nested_view_from_buffer(values.reshape(-1), sizes, *layout)
