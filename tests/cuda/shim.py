"""The CUDA kernels as a library for the CPU: csrc/cuda, compiled by g++ under shim.h."""

import ctypes
import functools
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
        f"flags = {' '.join([*FLAGS, *flags])} -I{ROOT}/csrc/cuda -include {HERE}/shim.h",
        "rule compile",
        "  command = g++ $flags -MD -MF $out.d -x c++ -c $in -o $out",
        "  depfile = $out.d",
        "rule link",
        f"  command = g++ {' '.join(flags)} {link} $in -o $out",
    ]
    objects = []
    kernels = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    for source in [*kernels, HERE / "shim.cpp", HERE / entry]:
        objects.append(f"{source.name}.o")
        lines.append(f"build {objects[-1]}: compile {source}")
    lines.append(f"build {target}: link {' '.join(objects)}")
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


class Kernels:
    """One call's kernels, on contiguous CPU tensors; `mask` is (sizes, strides, first) or None."""

    def __init__(
        self, x, bias=None, *, p=0.5, activation="identity", parameter=0.0, seed=0, offset=0,
        inner=1, mask=None, first=0, mode="inverted",
    ):  # fmt: skip
        scale, shift, fill = reference.constants(p, mode)
        keep = reference.keep_count(p)
        sizes, strides, first = mask or ((), (), first)
        kind = 0 if keep == 65536 else 2 if mask else 1
        self.x, self.bias = x, bias
        self.call = Call(
            numel=x.numel(), channels=1 if bias is None else bias.numel(), inner=inner,
            seed=seed, offset=offset, mask_kind=kind, keep_count=keep, first=first,
            sizes=_numbers(sizes), strides=_numbers(strides), ndim=len(sizes),
            scale=scale, shift=shift or -0.0, fill=fill, parameter=parameter,
            storage=STORAGES[x.dtype], wide=0,
            bias_wide=bias is not None and bias.dtype != x.dtype,
            activation=FF.ACTIVATIONS.index(activation),
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
            api = library()
            api.shim_partials.restype = ctypes.c_int64
            arithmetic = torch.float64 if self.x.dtype == torch.float64 else torch.float32
            count = api.shim_partials(ctypes.byref(self.call))
            # Every number has to be written, or the sums are NaN.
            partials = torch.full((count,), torch.nan, dtype=arithmetic)
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
        api = library()
        api.shim_walk.restype = ctypes.c_int64
        count = api.shim_walk(
            ctypes.byref(self.call), self.backward, ctypes.c_uint32(block), thread,
            ctypes.byref(first), ctypes.byref(last),
        )  # fmt: skip
        return count, first.value, last.value


def divide(numerator, divisor):
    """As kernels divide by a number that is known before."""
    api = library()
    api.shim_divide.restype = ctypes.c_int64
    return api.shim_divide(ctypes.c_int64(numerator), ctypes.c_int64(divisor))


if __name__ == "__main__":
    # Every access to memory that is not the kernel's, and every address that is not aligned as the
    # access wants it, ends the program.
    flags = ["-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run([build("sanitize", "sanitize.cpp", flags)], check=True)
