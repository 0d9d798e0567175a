"""The CUDA kernels as a library for the CPU: csrc/cuda, compiled by g++ under shim.h."""

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
    """Compiles what is older than its sources, through ninja; returns the path of `target`."""
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
    """Every number has to be written, or what is made of them is NaN."""
    return torch.full((count,), torch.nan, dtype=_arithmetic(dtype))


def _returning(name, kind=ctypes.c_int64):
    function = getattr(library(), name)
    function.restype = kind
    return function


class Kernels:
    """One call's pointwise kernels, on contiguous CPU tensors."""

    def __init__(self, x, bias=None, **options):
        self.x, self.bias = x, bias
        self.call = _call(
            x.numel(), x.dtype, channels=1 if bias is None else bias.numel(),
            bias_wide=bias is not None and bias.dtype != x.dtype, **options,
        )  # fmt: skip

    def forward(self, residual=None, y=None, state=None):
        wide = residual is not None and residual.dtype != self.x.dtype
        self.call.wide = wide
        if y is None:
            y = torch.empty_like(self.x, dtype=residual.dtype if wide else None)
        library().shim_forward(
            ctypes.byref(self.call), _pointer(self.x), _pointer(self.bias), _pointer(residual),
            _pointer(y), _pointer(state),
        )  # fmt: skip
        return y

    def backward(self, dy, x=None, bias_dtype=None, need_dx=True, dx=None):
        """`x`, unless the activation is the identity."""
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
    """One call's gated kernels; `x` has rows of two halves."""

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
    """One call's normalised kernels; `tensors` by the names of NormCall."""

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
        """y, and h with prenorm."""
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
        """After forward: the gradients by name. `in_shared`: where the last sums were."""
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


class BlockCall(ctypes.Structure):
    """`BlockCall` of shim_api.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("volumes", "copies", "volume_stride", "copy_stride")),
        *((name, ctypes.c_int64 * 3) for name in ("sizes", "blocks")),
        *((name, ctypes.c_int64) for name in ("inner", "run")),
        *((name, ctypes.c_uint64) for name in ("seed", "offset")),
        ("p", ctypes.c_double),
        *((name, ctypes.c_int32) for name in ("ndim", "storage")),
    ]


class BlockKernels:
    """One call's DropBlock kernels; the spatial dimensions of `x` lie next to each other."""

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
        self.call = BlockCall(
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

    def has_tiles(self):
        return _returning("shim_block_has_tiles", ctypes.c_bool)(ctypes.byref(self.call))

    def count(self):
        kept = torch.zeros((), dtype=torch.int64)
        library().shim_block_count(ctypes.byref(self.call), _pointer(kept))
        return int(kept)

    def apply(self, kept=None, y=None):
        """Scaled by the count `kept`, unless it is None."""
        kept = None if kept is None else torch.tensor(kept)
        y = torch.full_like(self.x, torch.nan) if y is None else y
        library().shim_block_apply(
            ctypes.byref(self.call), _pointer(self.x), _pointer(kept), _pointer(y)
        )
        return y


class NoiseKernels:
    """One call's noise kernels: those of Gaussian and Concrete dropout, and of Standout."""

    def __init__(self, x, **options):
        self.x = x
        self.call = _call(x.numel(), x.dtype, p=0.5, **options)

    def gaussian(self, p, state=None):
        y = torch.empty_like(self.x)
        sigma = ctypes.c_double((p / (1 - p)) ** 0.5)
        library().shim_gaussian(
            ctypes.byref(self.call), sigma, _pointer(self.x), _pointer(y), _pointer(state)
        )
        return y

    def concrete(self, logit, temperature):
        y, logit = torch.empty_like(self.x), logit.to(_arithmetic(self.x.dtype))
        library().shim_concrete_forward(
            ctypes.byref(self.call), ctypes.c_double(temperature), _pointer(self.x),
            _pointer(logit), _pointer(y),
        )  # fmt: skip
        return y

    def concrete_backward(self, dy, logit, temperature, need_dx=True, need_dlogit=True):
        dx = torch.empty_like(self.x) if need_dx else None
        logit, dlogit, partials = logit.to(_arithmetic(self.x.dtype)), None, None
        if need_dlogit:
            count = _returning("shim_partials")(ctypes.byref(self.call))
            partials, dlogit = _unwritten(count, self.x.dtype), torch.empty_like(logit)
        library().shim_concrete_backward(
            ctypes.byref(self.call), ctypes.c_double(temperature), _pointer(dy), _pointer(self.x),
            _pointer(logit), _pointer(dx), _pointer(partials), _pointer(dlogit),
        )  # fmt: skip
        return dx, dlogit

    def standout(self, z, alpha, beta, training=True):
        y = torch.empty_like(self.x)
        library().shim_standout(
            ctypes.byref(self.call), ctypes.c_double(alpha), ctypes.c_double(beta), training,
            _pointer(self.x), _pointer(z), _pointer(y),
        )  # fmt: skip
        return y

    def standout_backward(self, dy, z, alpha, beta, wanted=(True, True)):
        """Of evaluation."""
        dx, dz = (torch.empty_like(self.x) if one else None for one in wanted)
        library().shim_standout_backward(
            ctypes.byref(self.call), ctypes.c_double(alpha), ctypes.c_double(beta), _pointer(dy),
            _pointer(self.x), _pointer(z), _pointer(dx), _pointer(dz),
        )  # fmt: skip
        return dx, dz


def set_shared(size):
    """How many bytes of memory a block may have for itself."""
    library().shim_set_shared(ctypes.c_int64(size))


class Grid(ctypes.Structure):
    """`GridOf` of shim_api.cpp: of a tensor that need not exist."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("groups", "columns", "column_blocks", "width", "rows_per_block", "row_blocks")
    ]

    def __init__(self, numel, channels=1, inner=1, backward=False):
        self.call = Call(numel=numel, channels=channels, inner=inner)
        self.backward = backward
        library().shim_grid(ctypes.byref(self.call), backward, ctypes.byref(self))

    def visited(self, block, thread):
        """How many groups a thread visits, the first and the last of them."""
        first, last = ctypes.c_int64(-1), ctypes.c_int64(-1)
        count = _returning("shim_walk")(
            ctypes.byref(self.call), self.backward, ctypes.c_uint32(block), thread,
            ctypes.byref(first), ctypes.byref(last),
        )  # fmt: skip
        return count, first.value, last.value


class RowGrid(ctypes.Structure):
    """`RowGridOf` of shim_api.cpp: of rows that need not exist."""

    _fields_ = [
        (name, ctypes.c_int64) for name in ("groups", "team", "teams", "rows_per_team", "blocks")
    ]

    def __init__(self, rows, width, sums):
        library().shim_norm_grid(ctypes.c_int64(rows), width, sums, ctypes.byref(self))

    @property
    def threads(self):
        """Of a block."""
        return self.team * self.teams


def divide(numerator, divisor, short=False):
    """As kernels divide by a number that is known before; `short`: by one of 31 bits."""
    if short:
        return _returning("shim_divide_short")(ctypes.c_uint32(numerator), ctypes.c_uint32(divisor))
    return _returning("shim_divide")(ctypes.c_int64(numerator), ctypes.c_int64(divisor))


if __name__ == "__main__":
    # Every access to memory that is not the kernel's, and every address that is not aligned as the
    # access wants it, ends the program.
    flags = ["-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run([build("sanitize", "sanitize.cpp", flags)], check=True)
