"""Code of any origin: what reads a value later, or in another order, keeps its meaning."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fused_dropout as fd
from tests.fusion import own_models as own
from tests.fusion.fusing import fused_copy
from tests.fusion.own_models import X
from tests.fusion.parity import assert_parity, with_inputs


def doubled(function):
    @functools.wraps(function)
    def call(self, *args, **kwargs):
        return 2 * function(self, *args, **kwargs)

    return call


class ReadTwice(own.AttributeMlp):
    def forward(self, x):
        h = self.fc1(x)
        y = self.drop1(self.act(h))
        return self.fc2(y + h)


class ReadLater(own.AttributeMlp):
    def forward(self, x):
        h = self.fc1(x)
        y = self.drop1(h)
        z = self.fc2(y)
        return z, h


class ChangedLater(own.AttributeMlp):
    def forward(self, x):
        h = self.fc1(x)
        y = self.drop1(F.relu(h))
        h += y
        return self.fc2(y)


class ReadInTheNextTurn(own.AttributeMlp):
    def forward(self, x):
        h = x
        for _ in range(2):
            y = self.fc1(h)
            h = self.fc2(self.drop1(F.relu(y)))
        return h, y


class ReadAfterABranch(own.AttributeMlp):
    def forward(self, x, twice=True):
        y = self.fc1(x)
        if twice:
            z = self.fc1(x + 1)
            y = self.drop1(F.relu(z))
            y = y + z
        return self.fc2(y)


class Captured(own.AttributeMlp):
    def forward(self, x):
        h = self.fc1(x)
        later = lambda: h  # noqa: E731
        h = self.drop1(F.relu(h))
        return self.fc2(h) + later().sum()


class Deleted(own.AttributeMlp):
    def forward(self, x):
        h = self.fc1(x)
        y = self.drop1(F.relu(h))
        del h
        return self.fc2(y)


class UnderACondition(own.AttributeMlp):
    def forward(self, x):
        h = self.drop1(self.fc1(x))
        return self.fc2(h if self.training else x.new_zeros(24))


class HalvesReadLater(own.GatedByHalves):
    def forward(self, x):
        a, b = self.Wi(x).chunk(2, dim=-1)
        y = self.drop(self.act(a) * b)
        return self.Wo(y + a)


class OtherHalves(own.GatedByHalves):
    def forward(self, x):
        a, b = torch.cat((x, x), 1).chunk(2, dim=1)
        y = self.drop(self.act(a) * b)
        a, b = self.Wi(y).chunk(2, dim=-1)
        y = self.drop(self.act(a) * a)
        return self.Wo(y), b


class GateOfAnotherSize(own.AttributeMlp):
    def __init__(self):
        super().__init__()
        self.gate, self.up = nn.Linear(16, 1), nn.Linear(16, 24)

    def forward(self, x):
        return self.fc2(self.drop1(torch.sigmoid(self.gate(x)) * self.up(x)))


class ConvolutionInHalves(own.AttributeMlp):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(5, 6, 1)

    def forward(self, x):
        a, b = self.conv(x).chunk(2, dim=-1)
        return self.drop1(F.gelu(a) * b)


class BreakInALoop(own.AttributeMlp):
    def forward(self, x):
        h = x
        for i in range(3):
            h = self.fc1(x)
            x = self.fc2(self.drop1(F.gelu(h)))
            if i == 1:
                break
            h = x
        return x, h


class Finally(own.AttributeMlp):
    def forward(self, x):
        try:
            h = self.fc1(x)
            return self.fc2(self.drop1(F.gelu(h)))
        finally:
            self.last = h.detach()


class InplaceBefore(own.AttributeMlp):
    """``x`` is changed before the other side of the sum is computed."""

    def __init__(self):
        super().__init__()
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(16, 16)

    def forward(self, x):
        x = x * 1
        h = self.relu(x)
        h = self.fc(h)
        return 0.5 * x + self.drop1(h)


class InplaceInABranch(InplaceBefore):
    def body(self, x):
        return self.drop1(self.fc(self.relu(x)))

    def forward(self, x):
        x, s = x * 1, x * 2
        return x + s + self.body(x)


class Walrus(own.AttributeMlp):
    def forward(self, x):
        h = self.fc2(a := self.fc1(x))
        return 2 * a.sum() + self.drop2(h)


class Shadowed(own.AttributeMlp):
    """A local name that is a function of torch elsewhere."""

    def forward(self, x):
        silu = doubled_value
        return self.fc2(self.drop1(silu(self.fc1(x))))


class OwnDropoutInside(own.AttributeMlp):
    def forward(self, x):
        from tests.fusion.test_fusion_structure_meaning import doubled_value as dropout

        return self.fc2(self.drop1(dropout(F.relu(self.fc1(x)))))


def doubled_value(x):
    return 2 * x


class HookOnLastDropout(own.AttributeMlp):
    """A dropout layer that only ``open_forward`` bypasses."""

    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(16, 16), nn.LayerNorm(16)
        self.drop2.register_forward_hook(triple)

    def _sa(self, x):
        x = self.fc(x).clone()
        return self.drop2(x)

    def forward(self, x):
        return self.norm(x + self._sa(x))


def triple(module, inputs, output):
    return 3 * output


class DecoratedMethod(own.AttributeMlp):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 16)

    @doubled
    def body(self, x):
        return self.drop1(self.fc(x))

    def forward(self, x):
        return x + self.body(x)


class WithCall(own.GptMlp):
    def __call__(self, x):
        return 3 * super().__call__(x)


class CallsIt(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = WithCall()

    def forward(self, x):
        return x + self.mlp(x)


class OrderMatters(own.AttributeMlp):
    """``scale`` is read after the layer that sets it."""

    def __init__(self):
        super().__init__()
        self.scale = 1.0

    def count(self, x):
        self.scale = self.scale + 1.0
        return self.drop1(F.relu(self.fc1(x)))

    def forward(self, x):
        self.scale = 1.0
        y = self.count(x)
        y = self.scale * y
        return self.fc2(y)


class InplaceAndReadLater(own.AttributeMlp):
    def __init__(self):
        super().__init__(nn.ReLU(inplace=True))

    def forward(self, x):
        h = self.fc1(x)
        y = self.drop1(self.act(h))
        return self.fc2(y), h


class WithTry(own.AttributeMlp):
    def forward(self, x):
        h = x
        try:
            h = self.fc1(x)
            h = self.drop1(self.act(h))
            h = self.fc2(h)
        except RuntimeError:
            h = h + 1
        return h


class SumOfOtherThings(own.AttributeMlp):
    def forward(self, x):
        return x.mean(-1, keepdim=True) + self.drop2(self.fc2(F.relu(self.fc1(x))))


class SumOfTwoDropouts(own.AttributeMlp):
    def forward(self, x):
        return self.drop1(self.fc1(x)) + self.drop2(self.fc1(self.drop2(x)))


class NumberAsResidual(own.AttributeMlp):
    def __init__(self):
        super().__init__()
        self.path, self.norm = fd.DropPath(0.1), nn.LayerNorm(16)

    def forward(self, x):
        one, small = 1.0, 1e-3
        y = one + self.drop2(self.fc2(F.relu(self.fc1(x))))
        y = one + self.path(self.norm(y + small))
        y = y + small
        return self.norm(y) + y


class Properties(own.AttributeMlp):
    """``fuse`` does not run properties."""

    @property
    def missing(self):
        raise RuntimeError

    def forward(self, x, other=False):
        if other:
            x = self.missing.layer(x)
        return self.fc2(self.drop1(F.relu(self.fc1(x))))


class TransposedBranch(own.AttributeMlp):
    """``view`` needs the layout that torch gives to sums and norms."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(16), own.RmsNormOfLlama()

    def forward(self, x):
        y = x + self.drop1(self.fc2(self.fc1(x)).mT.contiguous().mT)
        y = y + y.view(-1).sum() / 100
        branch = self.norm1(y).mT.contiguous().mT
        y = y + self.drop1(branch)
        z = self.norm1(y)
        y = y + z.view(x.shape).mT.contiguous().mT
        z = self.norm2(y)
        return y.view(-1), z.view(-1)


class TransposedResidual(own.AttributeMlp):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(5, 5)
        self.norm = nn.LayerNorm(5)

    def forward(self, x):
        t = x.mT
        t = t + self.drop1(self.fc(t))
        n = self.norm(t)
        return t.mT.view(3, 80), n.view(-1)


class BroadcastResidual(own.AttributeMlp):
    def forward(self, x):
        r = x[:1]
        return r + self.drop2(self.fc2(F.relu(self.fc1(x))))


class Decorated(own.AttributeMlp):
    @doubled
    @doubled
    def forward(self, x):
        h = self.drop1(self.act(self.fc1(x)))
        return self.drop2(self.fc2(h))


class InComprehension(own.AttributeMlp):
    def forward(self, x):
        parts = [self.fc2(self.drop1(F.relu(self.fc1(one)))) for one in x.unbind(0)]
        return torch.stack(parts)


class PrivateName(own.AttributeMlp):
    def __init__(self):
        super().__init__()
        self.__fc = nn.Linear(16, 24)

    def forward(self, x):
        return self.fc2(self.drop1(F.relu(self.__fc(x))))


OTHERS = [
    ReadTwice,
    ReadLater,
    ChangedLater,
    ReadInTheNextTurn,
    ReadAfterABranch,
    Captured,
    Deleted,
    UnderACondition,
    GateOfAnotherSize,
    ConvolutionInHalves,
    BreakInALoop,
    Finally,
    InplaceBefore,
    InplaceInABranch,
    Walrus,
    Shadowed,
    OwnDropoutInside,
    HookOnLastDropout,
    DecoratedMethod,
    CallsIt,
    HalvesReadLater,
    OtherHalves,
    OrderMatters,
    InplaceAndReadLater,
    WithTry,
    SumOfOtherThings,
    SumOfTwoDropouts,
    NumberAsResidual,
    Properties,
    BroadcastResidual,
    Decorated,
    InComprehension,
    PrivateName,
]


@pytest.mark.parametrize("cls", OTHERS)
def test_code_that_reads_what_it_computed(cls):
    torch.manual_seed(0)
    assert_parity(cls(), with_inputs(X))


def test_layouts():
    torch.manual_seed(0)
    call = with_inputs(X)
    assert_parity(
        TransposedBranch(), call, fused_classes=["TransposedBranch"], in_memory_order=True
    )


def test_layout_of_a_residual_that_is_not_contiguous():
    fused = fused_copy(TransposedResidual())
    fused(X)
    for one in fused.modules():
        if isinstance(one, nn.Dropout):
            one.p = 0.0
    for output, expected in zip(fused(X), fused.eval()(X), strict=True):
        torch.testing.assert_close(output, expected)
