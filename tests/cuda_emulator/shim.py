"""Runs the CUDA kernels on the CPU: g++ compiles csrc/cuda with shim.h to a library."""

import ctypes
import fcntl
import functools
import math
import subprocess
from pathlib import Path

import torch

import fused_dropout.functional as FF
from fused_dropout import reference

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "cuda_shim"
FLAGS = [
    *("-std=c++17", "-O1", "-g0", "-fPIC", "-fno-strict-aliasing", "-fno-math-errno"),
    *("-Wall", "-Wno-unknown-pragmas", "-Wno-attributes"),
]
STORAGES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}


def build(target, entry, flags=()):
    """Builds `target` with ninja if a source is newer. Returns its path."""
    folder = BUILD / target.split(".")[0]
    folder.mkdir(parents=True, exist_ok=True)
    link = "-shared" if target.endswith(".so") else ""
    lines = [
        f"flags = {' '.join([*FLAGS, *flags])} -I{ROOT}/csrc -include {HERE}/shim.h",
        "rule compile",
        "  command = g++ $flags -MD -MF $out.d -x c++ -c $in -o $out",
        "  depfile = $out.d",
        "rule link",
        f"  command = g++ {' '.join(flags)} {link} $in -o $out",
    ]
    objects = []
    kernels = sorted((ROOT / "csrc" / "cuda").rglob("*.cu"))
    for source in [*kernels, HERE / "shim.cpp", HERE / entry]:
        objects.append(f"{source.name}.o")
        lines.append(f"build {objects[-1]}: compile {source}")
    lines.append(f"build {target}: link {' '.join(objects)}")
    # One process at a time: the others find it built.
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "build.ninja").write_text("\n".join(lines) + "\n")
        done = subprocess.run(["ninja", "-C", folder, target], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return folder / target


class Call(ctypes.Structure):
    """`Call` of shim_api.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("numel", "channels", "inner")),
        *((name, ctypes.c_uint64) for name in ("seed", "offset")),
        *((name, ctypes.c_int32) for name in ("mask_kind", "keep_count")),
        ("first", ctypes.c_int64),
        *((name, ctypes.POINTER(ctypes.c_int64)) for name in ("sizes", "strides")),
        *((name, ctypes.c_double) for name in ("scale", "shift", "fill", "parameter")),
        *(
            (name, ctypes.c_int32)
            for name in ("ndim", "storage", "wide", "bias_wide", "activation")
        ),
    ]


@functools.cache
def library():
    return ctypes.CDLL(str(build("kernels.so", "shim_api.cpp")))


def _pointer(tensor):
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _numbers(values):
    return (ctypes.c_int64 * max(len(values), 1))(*values)


def _call(
    numel, dtype, *, channels=1, inner=1, p=0.5, activation="identity", parameter=0.0, seed=0,
    offset=0, mask=None, first=0, mode="inverted", bias_wide=False,
):  # fmt: skip
    """`mask` is (sizes, strides, first) or None."""
    scale, shift, fill = reference.constants(p, mode)
    keep = reference.keep_count(p)
    sizes, strides, first = mask or ((), (), first)
    kind = 0 if keep == 65536 else 2 if mask else 1
    return Call(
        numel=numel, channels=channels, inner=inner, seed=seed, offset=offset, mask_kind=kind,
        keep_count=keep, first=first, sizes=_numbers(sizes), strides=_numbers(strides),
        ndim=len(sizes), scale=scale, shift=shift or -0.0, fill=fill, parameter=parameter,
        storage=STORAGES[dtype], wide=0, bias_wide=bias_wide,
        activation=FF.ACTIVATIONS.index(activation),
    )  # fmt: skip


def _arithmetic(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def _unwritten(count, dtype):
    """A buffer that starts as NaN, so that a number that no kernel writes shows in the results."""
    return torch.full((count,), torch.nan, dtype=_arithmetic(dtype))


def _returning(name, kind=ctypes.c_int64):
    function = getattr(library(), name)
    function.restype = kind
    return function


class Kernels:
    """The pointwise kernels with the arguments of one call, on contiguous CPU tensors."""

    def __init__(self, x, bias=None, **options):
        self.x, self.bias = x, bias
        self.call = _call(
            x.numel(), x.dtype, channels=1 if bias is None else bias.numel(),
            bias_wide=bias is not None and bias.dtype != x.dtype, **options,
        )  # fmt: skip

    def forward(self, residual=None, y=None):
        wide = residual is not None and residual.dtype != self.x.dtype
        self.call.wide = wide
        if y is None:
            y = torch.empty_like(self.x, dtype=residual.dtype if wide else None)
        library().shim_forward(
            ctypes.byref(self.call), _pointer(self.x), _pointer(self.bias), _pointer(residual),
            _pointer(y),
        )  # fmt: skip
        return y

    def backward(self, dy, x=None, bias_dtype=None, need_dx=True, dx=None):
        """`x` may be None if the activation is the identity."""
        self.call.wide = dy.dtype != self.x.dtype
        if need_dx and dx is None:
            dx = torch.empty_like(self.x)
        partials = dbias = None
        if bias_dtype is not None:
            count = _returning("shim_partials")(ctypes.byref(self.call))
            partials = _unwritten(count, self.x.dtype)
            dbias = torch.empty(self.call.channels, dtype=bias_dtype)
        seed = self.call.seed - (self.call.seed >> 63 << 64)  # as int64
        state = torch.tensor([seed, self.call.offset])
        library().shim_backward(
            ctypes.byref(self.call), _pointer(dy), _pointer(x), _pointer(self.bias),
            _pointer(dx), _pointer(partials), _pointer(dbias),
            STORAGES[bias_dtype or torch.float32], _pointer(state),
        )  # fmt: skip
        return dx, dbias

    def mask(self):
        kept = torch.empty(self.x.shape, dtype=torch.bool)
        library().shim_mask(ctypes.byref(self.call), _pointer(kept))
        return kept


class GatedKernels:
    """The gated kernels with the arguments of one call. Rows of `x` hold gate and value."""

    def __init__(self, x, bias=None, *, gate_first=True, **options):
        self.x, self.bias, self.gate_first = x, bias, gate_first
        self.call = _call(
            x.numel() // 2, x.dtype, channels=x.shape[-1] // 2,
            bias_wide=bias is not None and bias.dtype != x.dtype, **options,
        )  # fmt: skip

    def forward(self):
        y = torch.empty((*self.x.shape[:-1], self.call.channels), dtype=self.x.dtype)
        library().shim_gated_forward(
            ctypes.byref(self.call), self.gate_first, _pointer(self.x), _pointer(self.bias),
            _pointer(y),
        )  # fmt: skip
        return y

    def backward(self, dy, need_dx=True, need_dbias=True, dx=None):
        if need_dx and dx is None:
            dx = torch.empty_like(self.x)
        partials = dbias = None
        if need_dbias:
            count = _returning("shim_partials")(ctypes.byref(self.call))
            partials = _unwritten(2 * count, self.x.dtype)
            dbias = _unwritten(self.x.shape[-1], self.x.dtype)
        library().shim_gated_backward(
            ctypes.byref(self.call), self.gate_first, _pointer(dy), _pointer(self.x),
            _pointer(self.bias), _pointer(dx), _pointer(partials), _pointer(dbias),
        )  # fmt: skip
        return dx, dbias


class NormCall(ctypes.Structure):
    """`NormCall` of shim_api.cpp."""

    TENSORS = ("x", "residual", "bias", "layer_scale", "row_scale", "weight", "norm_bias")
    SUMS = ("bias", "layer_scale", "weight", "norm_bias")

    _fields_ = [
        *((name, ctypes.c_void_p) for name in TENSORS),
        ("eps", ctypes.c_double),
        *((name, ctypes.c_int32) for name in ("centered", "wide_h", "wide_y", "vectors_wide")),
    ]


class NormKernels:
    """The norm kernels with the arguments of one call. `tensors` has the names of NormCall."""

    def __init__(self, tensors, *, norm, prenorm, eps=1e-5, **options):
        self.tensors, self.prenorm = tensors, prenorm
        x, residual = tensors["x"], tensors.get("residual")
        self.x, width = x, x.shape[-1]
        self.h_dtype = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
        self.y_dtype = x.dtype if prenorm else self.h_dtype
        self.call = _call(x.numel(), x.dtype, channels=width, **options)
        wide = [t.dtype != x.dtype for n, t in tensors.items() if n not in ("x", "residual")]
        assert len(set(wide)) < 2, "vectors of one dtype"
        self.norm = NormCall(
            **{name: _pointer(tensors.get(name)) for name in NormCall.TENSORS}, eps=eps,
            centered=norm == "layer_norm", wide_h=self.h_dtype != x.dtype,
            wide_y=self.y_dtype != x.dtype, vectors_wide=any(wide),
        )  # fmt: skip

    def forward(self):
        """Returns y, and h if prenorm."""
        self.h = torch.empty_like(self.x, dtype=self.h_dtype) if self.prenorm else None
        y = torch.empty_like(self.x, dtype=self.y_dtype)
        self.mean, self.rstd = (_unwritten(self.call.numel // self.call.channels, self.x.dtype)
                                for _ in range(2))  # fmt: skip
        library().shim_norm_forward(
            ctypes.byref(self.call), ctypes.byref(self.norm), _pointer(y), _pointer(self.h),
            _pointer(self.mean), _pointer(self.rstd),
        )  # fmt: skip
        return (y, self.h) if self.prenorm else (y,)

    def backward(self, dy, dh=None, wanted=("x", "residual", *NormCall.SUMS)):
        """Returns the gradients by name; needs forward first.

        Sets `in_shared`: True if the column sums fitted into shared memory.
        """
        found = {}
        if "x" in wanted:
            found["x"] = torch.empty_like(self.x)
        if "residual" in wanted:
            found["residual"] = torch.empty_like(self.x, dtype=self.h_dtype)
        sums = (ctypes.c_void_p * len(NormCall.SUMS))()
        for i, name in enumerate(NormCall.SUMS):
            if name in wanted:
                found[name] = _unwritten(self.call.channels, self.x.dtype)
                sums[i] = found[name].data_ptr()
        count = _returning("shim_norm_partials")(ctypes.byref(self.call))
        partials = _unwritten(len(NormCall.SUMS) * count, self.x.dtype)
        self.in_shared = _returning("shim_norm_backward", ctypes.c_bool)(
            ctypes.byref(self.call), ctypes.byref(self.norm), _pointer(dy), _pointer(dh),
            _pointer(self.h), _pointer(self.mean), _pointer(self.rstd), _pointer(found.get("x")),
            _pointer(found.get("residual")), sums, _pointer(partials),
        )  # fmt: skip
        return found


class DropBlockCall(ctypes.Structure):
    """`DropBlockCall` of shim_api.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("volumes", "copies", "volume_stride", "copy_stride")),
        *((name, ctypes.c_int64 * 3) for name in ("sizes", "blocks")),
        *((name, ctypes.c_int64) for name in ("inner", "run")),
        *((name, ctypes.c_uint64) for name in ("seed", "offset")),
        ("p", ctypes.c_double),
        *((name, ctypes.c_int32) for name in ("ndim", "storage")),
    ]


class DropBlockKernels:
    """The DropBlock kernels with the arguments of one call.

    The spatial dimensions of `x` have to be adjacent in memory.
    """

    def __init__(self, x, p=0.1, block_size=7, *, shared_channels=False, seed=0, offset=0):
        self.x = x
        order = [dim for dim in reference.memory_order(x) if x.shape[dim] > 1]
        space = [i for i, dim in enumerate(order) if dim > 1]
        outer, within = (order[: space[0]], order[space[-1] + 1 :]) if space else ([], order)
        assert len(space) + len(outer) + len(within) == len(order)
        shared = (1,) if shared_channels else ()
        sizes = [x.shape[order[i]] for i in space]
        if not space and order and order[-1] in shared:
            outer, within = order[:-1], order[-1:]
        self.call = DropBlockCall(
            volumes=math.prod(x.shape[dim] for dim in outer if dim not in shared),
            copies=math.prod(x.shape[dim] for dim in outer if dim in shared),
            volume_stride=min((x.stride(dim) for dim in outer if dim not in shared), default=0),
            copy_stride=min((x.stride(dim) for dim in outer if dim in shared), default=0),
            sizes=(ctypes.c_int64 * 3)(*sizes),
            blocks=(ctypes.c_int64 * 3)(*(min(size, block_size) for size in sizes)),
            inner=math.prod(x.shape[dim] for dim in within if dim not in shared),
            run=math.prod(x.shape[dim] for dim in within if dim in shared),
            seed=seed, offset=offset, p=p, ndim=len(sizes), storage=STORAGES[x.dtype],
        )  # fmt: skip

    def can_tile(self):
        return _returning("shim_drop_block_can_tile", ctypes.c_bool)(ctypes.byref(self.call))

    def count(self):
        kept = torch.zeros((), dtype=torch.int64)
        library().shim_drop_block_count(ctypes.byref(self.call), _pointer(kept))
        return int(kept)

    def apply(self, kept=None, y=None):
        """Applies the mask. Scales by the count `kept`, unless it is None."""
        kept = None if kept is None else torch.tensor(kept)
        y = torch.full_like(self.x, torch.nan) if y is None else y
        library().shim_drop_block_apply(
            ctypes.byref(self.call), _pointer(self.x), _pointer(kept), _pointer(y)
        )
        return y


class NoiseCall(ctypes.Structure):
    """`NoiseCall` of shim_api.cpp."""

    _fields_ = [
        ("inputs", ctypes.c_void_p * 3),
        ("outputs", ctypes.c_void_p * 2),
        ("constants", ctypes.c_double * 4),
        *((name, ctypes.c_void_p) for name in ("scalar", "partials", "sum")),
    ]


class NoiseKernels:
    """One call's noise kernels, by the name of their functor in csrc/math/noise.h."""

    def __init__(self, x, **options):
        self.x = x
        self.call = _call(x.numel(), x.dtype, p=0.5, **options)

    def run(self, functor, inputs, constants, wanted=(True,), scalar=None, need_sum=False):
        """The outputs, None where not wanted, and the sum of a functor that has one."""
        outputs = [torch.empty_like(self.x) if one else None for one in wanted]
        partials = total = None
        if scalar is not None:
            scalar = scalar.to(_arithmetic(self.x.dtype))
        if need_sum:
            count = _returning("shim_partials")(ctypes.byref(self.call))
            partials, total = _unwritten(count, self.x.dtype), _unwritten(1, self.x.dtype)[0]
        noise = NoiseCall(
            constants=tuple(constants), scalar=_pointer(scalar), partials=_pointer(partials),
            sum=_pointer(total),
        )  # fmt: skip
        for field, tensors in ((noise.inputs, inputs), (noise.outputs, outputs)):
            for i, tensor in enumerate(tensors):
                field[i] = _pointer(tensor).value
        library().shim_noise(ctypes.byref(self.call), functor.encode(), ctypes.byref(noise))
        return (*outputs, total) if need_sum else tuple(outputs)


def set_shared(size):
    """Sets how many bytes of shared memory a thread block may have."""
    library().shim_set_shared(ctypes.c_int64(size))


class ColumnGrid(ctypes.Structure):
    """`ColumnGridFields` of shim_api.cpp: the grid of a tensor. It need not exist."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "full_groups", "columns", "column_blocks", "width", "rows_per_block", "row_blocks"
        )
    ]  # fmt: skip

    def __init__(self, numel, channels=1, inner=1, backward=False):
        self.call = Call(numel=numel, channels=channels, inner=inner)
        self.backward = backward
        library().shim_grid(ctypes.byref(self.call), backward, ctypes.byref(self))

    def visited(self, block, thread):
        """The number of groups that a thread visits, the first and the last of them."""
        first, last = ctypes.c_int64(-1), ctypes.c_int64(-1)
        count = _returning("shim_column_loop")(
            ctypes.byref(self.call), self.backward, ctypes.c_uint32(block), thread,
            ctypes.byref(first), ctypes.byref(last),
        )  # fmt: skip
        return count, first.value, last.value


class RowGrid(ctypes.Structure):
    """`RowGridFields` of shim_api.cpp: the grid of the norm kernels. The rows need not exist."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "groups_per_thread", "row_group_size", "row_groups", "rows_per_row_group", "blocks"
        )
    ]  # fmt: skip

    def __init__(self, rows, width, sums):
        library().shim_norm_grid(ctypes.c_int64(rows), width, sums, ctypes.byref(self))

    @property
    def threads(self):
        """Threads of a thread block."""
        return self.row_group_size * self.row_groups


def divide(numerator, divisor, short=False):
    """Divides as the kernels do: Divisor, or ShortDivisor with `short`."""
    if short:
        return _returning("shim_divide_short")(ctypes.c_uint32(numerator), ctypes.c_uint32(divisor))
    return _returning("shim_divide")(ctypes.c_int64(numerator), ctypes.c_int64(divisor))


if __name__ == "__main__":
    # Every access outside of the buffers and every misaligned access ends the program.
    flags = ["-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run([build("sanitize", "sanitize.cpp", flags)], check=True)
