"""Compares a fused model with the unfused model, with the same dropout masks.

:class:`ExplicitMasks` runs the unfused model with the masks of the random-number contract, for the
states that are drawn, in the order in which they are drawn. A fused model that starts from the same
seed has to give the same outputs. It also has to give the same gradients, because autograd
differentiates the explicit masks. This shows that the fused model applies the masks of the contract
in forward and in backward. No tolerance for randomness is needed.
"""

import copy
import math
import pickle
import sys
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn

import fused_dropout as fd
import fused_dropout.functional as FF

# Stochastic depth functions of other libraries: {(module, name): function that takes
# :meth:`ExplicitMasks.dropout` and returns the replacement}.
DROP_PATHS = {
    ("timm.layers.drop", "drop_path"): lambda drop: (
        lambda x, drop_prob=0.0, training=False, scale_by_keep=True: drop(
            x, drop_prob, training, shared_dims=tuple(range(1, x.dim())), scale=scale_by_keep
        )
    ),
    ("torchvision.ops.stochastic_depth", "stochastic_depth"): lambda drop: (
        lambda x, p, mode, training=True: drop(
            x, p, training, shared_dims=tuple(range(mode == "row", x.dim()))
        )
    ),
}


class ExplicitMasks:
    """A context manager in which torch's dropout functions apply masks of the contract.

    ``drawn`` counts the drawn elements of all calls, and ``kept`` those that are not dropped.

    The index of an element in the contract is its position in memory. Torch's attention returns
    transposed tensors where a fused layer has contiguous ones, so the masks are taken in row-major
    order. With ``in_memory_order`` they are taken in the memory order of the input.
    """

    def __init__(self, in_memory_order=False):
        self.in_memory_order = in_memory_order

    def __enter__(self):
        self.kept = self.drawn = self.calls = 0
        self._patches = [
            patch.object(F, "dropout", self.dropout),
            patch.object(F, "dropout1d", self._channels),
            patch.object(F, "dropout2d", self._channels),
            patch.object(F, "dropout3d", self._channels),
            patch.object(F, "alpha_dropout", self.alpha_dropout),
            patch.object(F, "scaled_dot_product_attention", self.attention),
            *(
                patch.object(sys.modules[module], name, replacement(self.dropout))
                for (module, name), replacement in DROP_PATHS.items()
                if module in sys.modules
            ),
        ]
        for one in self._patches:
            one.start()
        return self

    def __exit__(self, *error):
        for one in self._patches:
            one.stop()

    def dropout(self, input, p=0.5, training=True, inplace=False, shared_dims=(), scale=True):
        if not training or p == 0:
            return input
        kept, q = self._mask(input, p, shared_dims)
        return torch.where(kept, input / q if scale else input, torch.zeros_like(input))

    def alpha_dropout(self, input, p=0.5, training=False, inplace=False):
        if not training or p == 0:
            return input
        kept, q = self._mask(input, p, ())
        saturated = -1.7580993408473766  # SELU at minus infinity
        a = (q + saturated**2 * q * (1 - q)) ** -0.5
        kept_or_saturated = torch.where(kept, input, torch.full_like(input, saturated))
        return a * kept_or_saturated - a * saturated * (1 - q)

    def _mask(self, input, p, shared_dims):
        """The mask, and the keep probability."""
        state = fd.new_rng_state(input.device)
        like = input if self.in_memory_order else None
        kept = FF.dropout_mask(input.shape, p, state, like=like, shared_dims=shared_dims)
        decisions = kept[
            tuple(0 if dim in shared_dims else slice(None) for dim in range(kept.dim()))
        ]
        self.calls += 1
        self.kept += decisions.sum().item()
        self.drawn += decisions.numel()
        return kept, round((1 - p) * 65536) / 65536

    def _channels(self, input, p=0.5, training=True, inplace=False):
        return self.dropout(input, p, training, shared_dims=tuple(range(2, input.dim())))

    def attention(
        self,
        query,
        key,
        value,
        attn_mask=None,
        dropout_p=0.0,
        is_causal=False,
        scale=None,
        enable_gqa=False,
    ):
        if enable_gqa:
            repeat = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(repeat, -3), value.repeat_interleave(repeat, -3)
        scores = query @ key.transpose(-2, -1) * (scale or 1 / math.sqrt(query.shape[-1]))
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        probabilities = scores.softmax(-1)
        return self.dropout(probabilities, dropout_p) @ value


def run(model, call, seed=0):
    """Outputs (a list of tensors) and all gradients of a forward and a backward pass."""
    model.zero_grad()
    torch.manual_seed(seed)
    outputs, inputs = call(model)
    generator = torch.Generator().manual_seed(99)
    loss = sum(
        (output * torch.randn(output.shape, generator=generator, dtype=output.dtype)).sum()
        for output in outputs
    )
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    gradients |= {f"input {i}": x.grad for i, x in enumerate(inputs)}
    return outputs, gradients


def assert_equal_runs(unfused, fused, tolerance):
    """``tolerance`` is relative to the largest element, because sums are in another order."""
    outputs, gradients = unfused
    others, other_gradients = fused
    assert len(outputs) == len(others)
    for output, other in zip(outputs, others, strict=True):
        _assert_close("output", output, other, tolerance)
    assert gradients.keys() == other_gradients.keys()
    assert any(gradient is not None for gradient in gradients.values())
    # Some gradients, such as that of a key's bias, are exactly zero but for rounding errors.
    floor = 1e-3 * max(_largest(g) for g in gradients.values() if g is not None)
    for name, gradient in gradients.items():
        assert (gradient is None) == (other_gradients[name] is None), name
        if gradient is not None:
            other = other_gradients[name]
            _assert_close(f"gradient of {name}", gradient, other, tolerance, floor)


def _largest(x):
    return x.double().abs().max().item()


def _assert_close(name, expected, got, tolerance, floor=1e-3):
    assert expected.shape == got.shape and expected.dtype == got.dtype, name
    difference, largest = _largest(expected.double() - got.double()), _largest(expected)
    assert difference <= tolerance * max(largest, floor), (name, difference, largest)


def with_inputs(*tensors, **arguments):
    """A function for :func:`run` that calls a model; floating-point tensors get gradients.

    If the model returns a tuple, its tensors are the outputs; None in it is left out.
    """

    def call(model):
        leaves = [x.clone().requires_grad_() if x.is_floating_point() else x for x in tensors]
        result = model(*leaves, **arguments)
        outputs = [result] if isinstance(result, torch.Tensor) else list(result)
        outputs = [output for output in outputs if output is not None]
        return outputs, [x for x in leaves if x.requires_grad]

    return call


def set_p(model, p):
    """Sets all dropout probabilities of a model of torch, transformers or timm."""
    for module in model.modules():
        for name in ("p", "drop_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, p)
        for name in ("dropout", "activation_dropout", "attention_dropout", "attn_drop_p"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, p)


def assert_parity(
    model, call, *, fused_classes=(), masks=True, in_memory_order=False, tolerance=2e-5, seed=3
):
    """Checks everything that has to hold for a fused model in float64 or float32.

    Args:
        model: unfused, in training mode, with any probabilities; it is not changed.
        call: see :func:`with_inputs`.
        fused_classes: names of classes that the report has to list as fused; it may list others.
        masks: False if :class:`ExplicitMasks` does not cover all dropout of the unfused model.
        in_memory_order: see :class:`ExplicitMasks`.

    Returns:
        the fused copy, with p = 0.1.
    """
    unfused, fused = copy.deepcopy(model).train(), copy.deepcopy(model).train()
    report = fd.fuse(fused)
    names = {site.module for site in report.fused}
    assert names and names >= set(fused_classes), f"{report}"
    assert list(fused.state_dict()) == list(unfused.state_dict())

    for one in (unfused, fused):
        set_p(one, 0.0)
    plain = run(unfused, call, seed)
    assert_equal_runs(plain, run(fused, call, seed), tolerance)

    for one in (unfused, fused):
        set_p(one, 0.1)
    dropped = run(fused, call, seed)
    if masks:
        with ExplicitMasks(in_memory_order) as explicit:
            expected = run(unfused, call, seed)
        assert_equal_runs(expected, dropped, tolerance)
        if explicit.calls:
            spread = math.sqrt(0.1 * 0.9 / explicit.drawn)
            assert abs(explicit.kept / explicit.drawn - 0.9) < 5 * spread
    _assert_random(fused, call, plain, dropped, seed)

    # In evaluation the results are equal bit for bit.
    unfused.eval()
    fused.eval()
    with torch.no_grad():
        for a, b in zip(call(unfused)[0], call(fused)[0], strict=True):
            assert torch.equal(a, b)
    for a, b in zip(run(unfused, call)[0], run(fused, call)[0], strict=True):
        assert torch.equal(a, b)
    fused.train()
    unfused.train()

    assert_round_trips(model, fused, call, dropped, seed)
    return fused


def _assert_random(fused, call, plain, dropped, seed):
    """Dropout changes the output, differently at every call; the same seed gives the same masks."""
    again, other = run(fused, call, seed), run(fused, call, seed + 1)
    assert all(torch.equal(a, b) for a, b in zip(again[0], dropped[0], strict=True))
    if any(_drops(module) for module in fused.modules()):
        assert any(not torch.equal(a, b) for a, b in zip(other[0], dropped[0], strict=True))
        assert any(not torch.equal(a, b) for a, b in zip(plain[0], dropped[0], strict=True))


def _drops(module):
    return (isinstance(module, nn.Dropout) and module.p > 0) or getattr(module, "is_dropout", False)


def assert_round_trips(model, fused, call, dropped, seed):
    """Copies and pickles are fused; a model can be trained fused, unfused, saved and loaded."""
    for other in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert [type(m) for m in other.modules()] == [type(m) for m in fused.modules()]
        for a, b in zip(run(other, call, seed)[0], dropped[0], strict=True):
            assert torch.equal(a, b)

    trained = copy.deepcopy(fused)
    optimizer = torch.optim.SGD(trained.parameters(), lr=1e-3)
    run(trained, call)
    optimizer.step()
    assert fd.unfuse(trained) is trained
    assert [type(m) for m in trained.modules()] == [type(m) for m in model.modules()]
    target = copy.deepcopy(model)
    target.load_state_dict(trained.state_dict())
    with torch.no_grad():
        results = zip(call(target.eval())[0], call(trained.eval())[0], strict=True)
        assert all(torch.equal(a, b) for a, b in results)
