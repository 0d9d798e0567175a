"""Claims of docs/regularisation.md that its own code does not prove."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import fused_dropout as fd

L1, L2, RATE = 3e-3, 1e-2, 0.1


def digits():
    images, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(images).float() / 16, torch.from_numpy(labels)
    return (x[:300], y[:300]), (x[300:], y[300:])


def make_model(p=0.5):
    torch.manual_seed(0)
    return fd.MLP(64, 64, 10, p=p, activation="relu")


def make_optimizer(model, l2):
    weights = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    biases = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [{"params": weights, "weight_decay": l2}, {"params": biases}]
    return torch.optim.SGD(groups, lr=RATE), weights


def train(l1, l2, steps=500):
    model, ((x, y), validation) = make_model(), digits()
    optimizer, weights = make_optimizer(model, l2)
    batches = torch.Generator().manual_seed(1)
    for _ in range(steps):
        batch = torch.randint(len(x), (50,), generator=batches)
        loss = F.cross_entropy(model(x[batch]), y[batch])
        loss = loss + l1 * sum(weight.abs().sum() for weight in weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    accuracy = (model(validation[0]).argmax(1) == validation[1]).float().mean()
    return torch.cat([weight.flatten() for weight in weights]).detach(), accuracy.item()


def test_dropout_l1_and_l2_in_one_run():
    """Each does its work while the others do theirs, and the network still learns."""
    weights, accuracy = {}, {}
    for case in ((0.0, 0.0), (L1, 0.0), (0.0, L2), (L1, L2)):
        weights[case], accuracy[case] = train(*case)

    def tiny(case):
        return (weights[case].abs() < 1e-3).float().mean()

    def norm(case):
        return weights[case].norm()

    assert norm((0.0, L2)) < 0.9 * norm((0.0, 0.0))
    assert norm((L1, L2)) < 0.95 * norm((L1, 0.0))
    assert tiny((0.0, 0.0)) < 0.05 and tiny((0.0, L2)) < 0.05
    assert tiny((L1, 0.0)) > 0.5 and tiny((L1, L2)) > 0.5
    assert min(accuracy.values()) > 0.8


def test_one_step_is_the_sum_of_the_three():
    """Loss under a mask, L1 and L2, against the formula."""
    model, ((x, y), _) = make_model(), digits()
    optimizer, weights = make_optimizer(model, L2)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    torch.manual_seed(2)
    gradients = torch.autograd.grad(F.cross_entropy(model(x), y), tuple(model.parameters()))
    torch.manual_seed(2)
    loss = F.cross_entropy(model(x), y) + L1 * sum(weight.abs().sum() for weight in weights)
    loss.backward()
    optimizer.step()

    for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
        old = before[name]
        penalty = L1 * old.sign() + L2 * old if old.dim() > 1 else 0
        torch.testing.assert_close(parameter.detach(), old - RATE * (gradient + penalty))


@pytest.mark.parametrize("dropout", [nn.Dropout, fd.Dropout])
@pytest.mark.parametrize("p", [0.2, 0.5])
@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_variance_shift(dropout, p, mean):
    """Batch normalisation behind dropout learns Var + (p / q) E[y²], and meets Var."""
    torch.manual_seed(3)
    y = torch.randn(4096, 8) + mean
    before = nn.Sequential(dropout(p), nn.BatchNorm1d(8, momentum=None))
    after = nn.Sequential(nn.BatchNorm1d(8, momentum=None), dropout(p))
    for network in (before, after):
        for _ in range(20):
            network(y)
        network.eval()
    shifted = y.var(0) / (y.var(0) + p / (1 - p) * y.square().mean(0))
    torch.testing.assert_close(before(y).var(0), shifted, rtol=0.05, atol=0)
    torch.testing.assert_close(after(y).var(0), torch.ones(8), rtol=0.01, atol=0)


def test_the_cures_for_variance_shift():
    """Layer normalisation has none, and statistics estimated again in evaluation have none."""
    torch.manual_seed(4)
    y = torch.randn(4096, 64)
    layers = nn.Sequential(fd.Dropout(0.5), nn.LayerNorm(64)).eval()
    torch.testing.assert_close(layers(y).var(), torch.ones(()), rtol=0.02, atol=0)

    network = nn.Sequential(fd.Dropout(0.5), nn.BatchNorm1d(64, momentum=None))
    network(y)
    network.eval()
    network[1].reset_running_stats()
    network[1].train()
    network(y)
    network.eval()
    torch.testing.assert_close(network(y).var(0), torch.ones(64), rtol=0.01, atol=0)


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_dropped_inputs_are_an_l2_penalty(p):
    """Of a linear model under a squared loss, in the mean over masks."""
    torch.manual_seed(5)
    linear, x = nn.Linear(5, 1, dtype=torch.float64), torch.randn(30, 5, dtype=torch.float64)
    target = torch.randn(30, 1, dtype=torch.float64)
    many, targets = x.repeat(20_000, 1), target.repeat(20_000, 1)
    with torch.no_grad():
        dropped = F.mse_loss(linear(F.dropout(many, p)), targets) / 2
        plain = F.mse_loss(linear(x), target) / 2
        penalty = p / (1 - p) * (linear.weight.square() * x.square().mean(0)).sum() / 2
    torch.testing.assert_close(dropped, plain + penalty, rtol=0.01, atol=0)
