"""Runs a generated call of a public function, forward and backward, and checks the results."""

import torch

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.fuzz.functions import expected
from tests.fuzz.settings import announce
from tests.helpers import same_bits

# Errors, relative to the largest number of the result, that no rounding explains: it is not about
# accuracy here, which tests/pointwise/test_accuracy.py measures, but about numbers from elsewhere.
_TOLERANCE = {
    torch.float64: 1e-9,  # where all tensors are: a branch is computed in the dtype of x
    torch.float32: 2e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
# Normalised rows of equal numbers are a quotient of what rounding has left.
_ILL = ("dropout_add_layer_norm", "dropout_add_rms_norm")


def _tuple(result):
    return result if isinstance(result, tuple) else (result,)


def _is_leaf(key, value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def check_call(call):
    announce(call)
    arguments = call.build()
    before = {
        key: value.clone() for key, value in arguments.items() if isinstance(value, torch.Tensor)
    }
    inplace = arguments.get("inplace", False)
    if inplace and _overlaps(arguments["x"]):
        arguments["x"] = arguments["x"].clone()
    leaves = {key: value for key, value in arguments.items() if _is_leaf(key, value)}
    if not inplace:
        for leaf in leaves.values():
            leaf.requires_grad_()
    results = _tuple(getattr(FF, call.function)(**arguments))
    upstream = [_upstream(one, seed) for seed, one in enumerate(results)]
    wanted = {key: leaf for key, leaf in leaves.items() if not inplace and _has_gradient(call, key)}
    gradients = {}
    tracked = [(one, dy) for one, dy in zip(results, upstream, strict=True) if one.requires_grad]
    if wanted and tracked:
        found = torch.autograd.grad(
            [one for one, _ in tracked],
            list(wanted.values()),
            [dy for _, dy in tracked],
            allow_unused=True,
        )
        gradients = dict(zip(wanted, found, strict=True))

    for key, value in before.items():
        if key == "x" and inplace:
            continue
        now = arguments[key].detach()
        unchanged = same_bits(now, value) if now.is_floating_point() else torch.equal(now, value)
        assert unchanged, f"{key} has changed"
    _compare(call, before, arguments.get("x"), results, gradients, upstream)


def _overlaps(x):
    return any(stride == 0 and size > 1 for size, stride in zip(x.shape, x.stride(), strict=True))


def _has_gradient(call, key):
    return not (key == "z" and call.arguments["training"])


def _upstream(result, seed):
    """Values without pattern, in another layout than the result's."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(result.shape, generator=generator).to(result.dtype)
    return values.flip(0).mT.contiguous().mT if result.dim() > 1 else values


def _wide(value, layout_of):
    if not value.is_floating_point():
        return value
    wide = torch.empty_like(layout_of, dtype=torch.float64)
    return wide.copy_(value).requires_grad_()


def _compare(call, before, x, results, gradients, upstream):
    """Against the reference in fp64, where all numbers are finite and not large."""
    wide = {key: _wide(value, x if key == "x" else value) for key, value in before.items()}
    tensors = {**call.arguments, **wide}
    exact = expected(call, tensors)
    assert [one.shape for one in results] == [one.shape for one in exact]
    if any(getattr(value, "values", "normal") != "normal" for value in call.arguments.values()):
        return
    slack = _standout_slack(call, tensors)
    ill = call.function in _ILL and results[0].shape[-1] < 3
    for one, truth in zip(results, exact, strict=True):
        if not ill:
            _check_near(call.function, one, truth, _tolerance_of(before, one), slack)
    tracked = [
        (one, dy.double()) for one, dy in zip(exact, upstream, strict=True) if one.requires_grad
    ]
    used = {key: grad for key, grad in gradients.items() if grad is not None}
    if not tracked or not used:
        return
    truths = torch.autograd.grad(
        [one for one, _ in tracked],
        [tensors[key] for key in used],
        [dy for _, dy in tracked],
        allow_unused=True,
    )
    for (key, one), truth in zip(used.items(), truths, strict=True):
        assert one.shape == before[key].shape and one.dtype == before[key].dtype, key
        if truth is None:
            truth = torch.zeros(one.shape, dtype=torch.float64)
        if not ill and call.function not in _ILL:
            _check_near(f"gradient by {key}", one, truth, _tolerance_of(before, one), slack)


def _tolerance_of(arguments, result):
    dtypes = {value.dtype for value in arguments.values() if value.is_floating_point()}
    return max(_TOLERANCE[dtype] for dtype in {*dtypes, result.dtype})


def _standout_slack(call, tensors):
    """Where a threshold that is computed in fp32 may differ from the exact one."""
    if call.function != "standout" or not call.arguments["training"]:
        return None
    exact = reference.standout_threshold(
        tensors["z"].detach(), call.arguments["alpha"], call.arguments["beta"]
    )
    return ((exact % 1) - 0.5).abs() < 0.01


def _check_near(what, one, truth, tolerance, slack):
    if one.numel() == 0:
        return
    error = (one.detach().double() - truth.detach()).abs()
    if slack is not None and slack.shape == error.shape:
        error = error.masked_fill(slack, 0)
    scale = truth.detach().abs().max().clamp(min=1) * max(1, one.numel()) ** 0.25
    bound = float(tolerance * scale)
    if torch.isfinite(truth).all() and bound < torch.finfo(one.dtype).max / 100:
        assert error.max() <= bound, f"{what}: off by {float(error.max())}, {bound} are allowed"
