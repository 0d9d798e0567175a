"""What the tests on a GPU share: the device, and the same call there and on the CPU."""

import os

import torch
from helpers import operator, state

DEVICE = os.environ.get("FUSED_DROPOUT_TEST_DEVICE", "cuda" if torch.cuda.is_available() else None)
STATE = state()


def there(*tensors):
    """The same tensors on the device, in the same strides; None stays None."""
    moved = tuple(
        None if one is None else torch.empty_like(one, device=DEVICE).copy_(one) for one in tensors
    )
    return moved if len(moved) != 1 else moved[0]


def random(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def results(x, bias=None, residual=None, dy=None, rng_state=STATE, **options):
    """y, and the gradients of x and bias, as the operator gives them where its arguments are."""
    x = x.detach().requires_grad_()
    bias = None if bias is None else bias.detach().requires_grad_()
    y = operator(x, bias, residual, rng_state.to(x.device), **options)
    wanted = [one for one in (x, bias) if one is not None]
    return y.detach(), *torch.autograd.grad(y, wanted, torch.ones_like(y) if dy is None else dy)


def here_and_there(x, bias=None, residual=None, dy=None, **options):
    """`results` on the CPU, and the same call on the device, brought back."""
    here = results(x, bias, residual, dy, **options)
    moved = there(x, bias, residual, dy)
    return here, [one.cpu() for one in results(*moved, **options)]
