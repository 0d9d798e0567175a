"""torch.export."""

import io

import pytest
import torch
from torch import nn

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference
from tests.compile.compiling import Net, operators_of, tensor
from tests.module_helpers import drawing_nothing, seed_and_state

DRAWING = {"draw_rng_state", "randint", "bernoulli", "native_dropout", "dropout"}


def draws(graph):
    names = {name.split("::")[-1].split(".")[0].strip("_") for name in operators_of(graph)}
    return names & DRAWING


def test_export_of_an_evaluation_model():
    model = Net().eval()
    x = tensor(4, 6)
    exported = torch.export.export(model, (x,))
    assert not draws(exported.graph)
    with drawing_nothing():
        torch.testing.assert_close(exported.module()(x), model(x))


@pytest.mark.parametrize("training", [True, False])
def test_export_survives_a_file(training):
    model = Net().train(training)
    x = tensor(4, 6)
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, (x,)), file)
    file.seek(0)
    call = torch.export.load(file).module()
    torch.manual_seed(10)
    wanted = model(x)
    torch.manual_seed(10)
    torch.testing.assert_close(call(x), wanted)


def test_export_of_layers_alone_has_no_operator_of_ours():
    model = nn.Sequential(fd.Dropout(), fd.AlphaDropout(), fd.Dropout(inplace=True)).eval()
    exported = torch.export.export(model, (tensor(4, 6),))
    assert not any("fused_dropout" in name for name in operators_of(exported.graph))


def test_export_with_dynamic_shapes():
    model = Net().eval()
    batch = torch.export.Dim("batch")
    exported = torch.export.export(model, (tensor(4, 6),), dynamic_shapes=({0: batch},))
    for rows in (2, 9):
        x = tensor(rows, 6)
        torch.testing.assert_close(exported.module()(x), model(x))


def test_export_of_training_draws_at_run_time():
    model = fd.Dropout(0.5)
    exported = torch.export.export(model, (torch.ones(64),), strict=True)
    assert draws(exported.graph) == {"draw_rng_state"}
    call = exported.module()
    state = seed_and_state(8)
    assert torch.equal(call(torch.ones(64)), reference.dropout(torch.ones(64), 0.5, state))
    assert not torch.equal(call(torch.ones(64)), call(torch.ones(64)))


@pytest.mark.parametrize("strict", [True, False])
def test_export_forbids_a_generator(strict):
    class Model(nn.Module):
        def forward(self, x):
            return FF.dropout(x, generator=generator)

    generator = torch.Generator()
    with pytest.raises(Exception, match="rng_state="):
        torch.export.export(Model(), (tensor(4),), strict=strict)


@pytest.mark.parametrize("strict", [True, False])
def test_export_of_two_calls(strict):
    class Model(nn.Module):
        def forward(self, x):
            return FF.dropout(x), FF.dropout(x)

    call = torch.export.export(Model(), (torch.ones(64),), strict=strict).module()
    assert not torch.equal(*call(torch.ones(64)))
