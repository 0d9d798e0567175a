"""Code of any origin: which source is read, and which is not that of the running code."""

import functools
import linecache

from torch import nn

import fused_dropout as fd
from tests.fusion import own_models as own
from tests.fusion.fusing import called, fused_copy
from tests.fusion.own_models import X
from tests.fusion.parity import ExplicitMasks, assert_equal_runs, run, with_inputs


def test_closures_and_line_numbers():
    model = own.with_closure()
    fused = fused_copy(model)
    assert "fused_dropout::bias_act_dropout" in called(lambda: fused(X))
    got = run(fused, with_inputs(X), 2)
    with ExplicitMasks():
        assert_equal_runs(run(model, with_inputs(X), 2), got, 2e-5)
    code, new = own.GptMlp.forward.__code__, fused_copy(own.GptMlp()).fused_forward.__code__
    assert (new.co_filename, new.co_firstlineno) == (code.co_filename, code.co_firstlineno)
    assert {line for *_, line in new.co_lines() if line} <= {
        line for *_, line in code.co_lines() if line
    }


def test_unreadable_code_is_left():
    class Hiding:
        """A decorator that is not a function."""

        def __init__(self, function):
            functools.update_wrapper(self, function)
            self.function = function

        def __get__(self, instance, owner):
            return functools.partial(self.function, instance)

    class Decorated(own.AttributeMlp):
        @Hiding
        def forward(self, x):
            return self.drop1(self.act(self.fc1(x)))

    names = {"nn": nn, "own": own}
    exec(
        "class NoSource(own.AttributeMlp):\n"
        "    def forward(self, x):\n"
        "        return self.drop1(self.act(self.fc1(x)))",
        names,
    )

    class Locals(own.AttributeMlp):
        def forward(self, x):
            h = self.act(self.fc1(x))
            h = self.drop1(h)
            return h, len(locals())

    for cls in (Decorated, names["NoSource"], Locals):
        report = fd.fuse(cls())
        assert {site.module for site in report.fused} == {"Dropout"}, cls


def test_code_of_a_notebook():
    """The imports are in another cell, for which Python compiles calls of functions otherwise."""
    names = {"__name__": "cells"}
    for index, cell in enumerate(
        (
            "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n",
            "class Cell(nn.Module):\n"
            "    def __init__(self):\n"
            "        super().__init__()\n"
            "        self.fc, self.drop = nn.Linear(16, 16), nn.Dropout(0.1)\n"
            "    def forward(self, x):\n"
            "        return torch.relu(self.drop(F.gelu(self.fc(x))))\n",
        )
    ):
        file = f"<cell {index}>"
        linecache.cache[file] = len(cell), None, cell.splitlines(True), file
        exec(compile(cell, file, "exec"), names)
    (site, _) = fd.fuse(names["Cell"]()).fused
    assert site.text == "bias, activation and dropout"


def test_source_that_is_not_the_code():
    """A file that was changed after its import is not taken for the code that runs."""

    class Changed(own.AttributeMlp):
        def forward(self, x):
            return self.drop1(self.act(self.fc1(x)))

    Changed.forward.__code__ = own.GptMlp.forward.__code__.replace(
        co_filename=Changed.forward.__code__.co_filename,
        co_firstlineno=Changed.forward.__code__.co_firstlineno,
    )
    assert {site.module for site in fd.fuse(Changed()).fused} == {"Dropout"}
