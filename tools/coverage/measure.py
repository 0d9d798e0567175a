"""Counts the dropout calls of a model before and after ``fuse``, and compares its results."""

import contextlib
from collections import Counter

import torch

import fused_dropout as fd
from fused_dropout.fusion.calls import DropoutCalls
from tools.coverage.probabilities import set_in_modules

P = 0.1
TINY_P = 1e-10  # runs all code of dropout, but drops nothing
TOLERANCE = 1e-3  # of the largest element: float32, with sums in another order


class NotRun(Exception):
    """No model of a family can be built, or no inputs are found for it; the text says why."""


def measure(model, inputs):
    """The results of one model.

    Args:
        model: a module with all dropout probabilities above 0.
        inputs: dictionary of its arguments.

    Returns:
        dict: "sites" in a training step of the model as it is; of those after ``fuse``
        "neighbours", "alone" and "left"; "places" of those left; "parity", the largest difference
        of an output or gradient at p = 1e-10, relative to the largest element; "evaluation",
        whether it is bit-equal. These two are None if the unfused model itself gives other results
        with another seed, or when it is run again.
    """
    run = _Runs(model, inputs)
    with DropoutCalls(model) as before:
        try:
            run.step(P)
        except Exception as error:
            raise NotRun(f"the unfused model cannot be trained: {error_text(error)}") from error
    with fd.fused(model), DropoutCalls(model) as after:
        run.step(P)
    counts = after.counts()
    return {
        "sites": len(before.calls),
        "neighbours": counts["neighbours"],
        "alone": counts["alone"],
        "left": counts["torch"],
        "places": _places(after.calls),
        "evaluation": _same_evaluation(model, run),
        "parity": _parity(model, run),
    }


def error_text(error):
    """An exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class _Runs:
    """Runs a model with the same weights, buffers and inputs each time."""

    def __init__(self, model, inputs):
        self.model, self.inputs = model, inputs
        self.state = {name: value.clone() for name, value in model.state_dict().items()}

    def step(self, p, seed=0):
        """Outputs and gradients of a forward and a backward pass."""
        self._reset(p, True)
        return _step(self.model, self.inputs, seed)

    def evaluation(self):
        """Outputs in evaluation."""
        self._reset(P, False)
        torch.manual_seed(0)
        with torch.no_grad():
            return tensors(self.model(**self.inputs))

    def to_float64(self):
        self.model.double()
        # Grouped matrix products, which transformers uses for experts, exist in float32 alone.
        if hasattr(self.model, "set_experts_implementation"):
            self.model.set_experts_implementation("eager")
        self.inputs = {
            name: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
            for name, x in self.inputs.items()
        }

    def _reset(self, p, training):
        self.model.load_state_dict(self.state)
        set_in_modules(self.model, p)
        self.model.train(training)


def _same_evaluation(model, run):
    expected = run.evaluation()
    with fd.fused(model):
        if _bit_equal(expected, run.evaluation()):
            return True
    return False if _bit_equal(expected, run.evaluation()) else None


def _parity(model, run):
    difference = _difference_of_steps(model, run)
    if difference <= TOLERANCE:
        return difference
    if _difference(run.step(TINY_P), run.step(TINY_P, seed=1)) > TOLERANCE:
        return None
    # Deep networks amplify rounding errors: their differences are small in float64 alone.
    with contextlib.suppress(Exception):
        run.to_float64()
        difference = _difference_of_steps(model, run)
    return difference


def _difference_of_steps(model, run):
    expected = run.step(TINY_P)
    with fd.fused(model):
        return _difference(expected, run.step(TINY_P))


def _places(calls):
    """Where calls are left with torch, by files relative to their folder of packages."""
    left = Counter(
        f"{call.place.rpartition('site-packages/')[2]} {call.function}"
        for call in calls
        if call.kind == "torch"
    )
    return dict(sorted(left.items()))


def _step(model, inputs, seed):
    """Outputs and gradients of a forward and a backward pass."""
    model.zero_grad()
    torch.manual_seed(seed)
    outputs = tensors(model(**inputs))
    generator = torch.Generator().manual_seed(99)
    loss = sum(
        (output * torch.randn(output.shape, generator=generator, dtype=output.dtype)).sum()
        for output in outputs
        if output.requires_grad
    )
    if isinstance(loss, torch.Tensor):
        loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {f"output {i}": output.detach() for i, output in enumerate(outputs)}, {
        name: gradient.clone() for name, gradient in gradients.items()
    }


def tensors(result):
    """All floating-point tensors of a model's result, in order."""
    if isinstance(result, torch.Tensor):
        return [result] if result.is_floating_point() else []
    if isinstance(result, dict):
        result = result.values()
    if isinstance(result, (list, tuple)) or hasattr(result, "__next__") or _is_values(result):
        return [tensor for part in result for tensor in tensors(part)]
    return []


def _is_values(result):
    return isinstance(result, type({}.values()))


def _difference(expected, got):
    """The largest difference of two results of :func:`_step`, relative to the largest element."""
    worst = 0.0
    for one, other in zip(expected, got, strict=True):
        if one.keys() != other.keys():
            return float("inf")
        largest = max([_largest(value) for value in one.values()], default=0.0)
        for name, value in one.items():
            if not torch.equal(value.isfinite(), other[name].isfinite()):
                return float("inf")
            # Some gradients, such as that of a key's bias, are zero but for rounding errors.
            floor = max(_largest(value), 1e-3 * largest, 1e-12)
            worst = max(worst, _largest(value - other[name]) / floor)
    return worst


def _largest(x):
    return x.detach().double().nan_to_num(0, 0, 0).abs().max().item() if x.numel() else 0.0


def _bit_equal(one, other):
    return len(one) == len(other) and all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(one, other, strict=True)
    )
