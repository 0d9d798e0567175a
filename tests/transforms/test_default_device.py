"""Inside `with torch.device(...)` calls compute what they compute outside: each tensor that they
make names its device."""

import torch

from tests.every_function import STATE, every_call, gradients_of, run, tensors_of, upstream_of


@every_call
def test_functions(name):
    tensors = tensors_of(name)
    expected = run(name, tensors, rng_state=STATE)
    upstream = upstream_of(expected)
    gradients = gradients_of(expected, tensors, upstream)
    with torch.device("meta"):
        results = run(name, tensors, rng_state=STATE)
        found = gradients_of(results, tensors, upstream)
    for one, other in zip(results, expected, strict=True):
        assert torch.equal(one, other)
    for argument, one in found.items():
        assert one is gradients[argument] is None or torch.equal(one, gradients[argument])
    with torch.device("meta"):
        drawn = run(name, tensors)
        classic = {"dropout", "bias_act_dropout"} & {name}
        for mode in ["classic"] if classic else []:
            drawn += run(name, tensors, mode=mode)
    assert all(one.device.type == "cpu" for one in drawn)
