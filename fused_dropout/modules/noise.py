"""Continuous noise and learned masks: Gaussian dropout, Concrete dropout and Standout."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from fused_dropout import functional as FF
from fused_dropout.functional._arguments import probability
from fused_dropout.functional.noise import check_below_one
from fused_dropout.modules._checks import check_activation, check_number, check_p
from fused_dropout.modules._leaf import Leaf
from fused_dropout.modules._options import DropOptions, tuple_of_integers

__all__ = ["ConcreteDropout", "GaussianDropout", "Standout", "concrete_regularization"]


class GaussianDropout(DropOptions, nn.Module):
    """Multiplies by normal noise with mean 1 and standard deviation `sqrt(p / (1 - p))`.

    Use it instead of `fused_dropout.Dropout` if zeros are harmful, as in regression or before a
    layer that takes logarithms of absolute values. Srivastava et al. found it as good as dropout or
    slightly better. In evaluation it is the identity.

    Shape: any; the output has the shape of the input.

    Equivalent PyTorch code: `x * (1 + (p / (1 - p)) ** 0.5 * torch.randn_like(x))`.

    Source: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout: a simple way to
    prevent neural networks from overfitting", JMLR 2014, section 10. See also
    `fused_dropout.functional.gaussian_dropout`.

    Args:
        p: the noise has the mean and variance of dropout with this probability; 0 <= p < 1.
        shared_dims: dimensions along which all elements share one number, as in
            `fused_dropout.Dropout`.
        noise_shape: the same in the notation of Keras, as in `fused_dropout.Dropout`.
    """

    def __init__(self, p=0.5, *, shared_dims=(), noise_shape=None):
        super().__init__()
        name = type(self).__name__
        check_below_one(name, probability(p, name))
        self.p = p
        self._init_options("inverted", shared_dims, noise_shape)

    def forward(self, x):
        sharing = {"shared_dims": self.shared_dims, "noise_shape": self.noise_shape}
        return FF.gaussian_dropout(x, self.p, self.training, **sharing)

    def extra_repr(self):
        return f"p={self.p}{self._options_repr()}"


class ConcreteDropout(Leaf, nn.Module):
    """Dropout that learns its probability `p` by gradient descent, together with the weights.

    The mask is relaxed to numbers between 0 and 1 (the Concrete distribution), so the loss has a
    gradient with respect to `p`. A regulariser has to be added to the loss. It keeps `p` from going
    to zero, and makes it smaller the more data there are. Put the module before each layer with
    weights:

        net = nn.Sequential(
            fd.ConcreteDropout(layer=nn.Linear(64, 512)), nn.ReLU(),
            fd.ConcreteDropout(layer=nn.Linear(512, 1)),
        )
        loss = F.mse_loss(net(x), y) + fd.concrete_regularization(net)

    In evaluation it is the identity, as usual with inverted scaling. The paper is about the
    uncertainty of predictions, and averages over samples in evaluation too. To do so, set only
    these modules to training mode, as `fused_dropout.mc_dropout` does.

    Shape: any; without `layer` the output has the shape of the input.

    Equivalent PyTorch code:

        u = torch.rand_like(x)
        dropped = torch.sigmoid((p_logit + torch.logit(u)) / temperature)
        layer(x * (1 - dropped) / (1 - p))

    Source: Gal, Hron and Kendall, "Concrete dropout", NeurIPS 2017.

    Args:
        p: the initial probability; 0 < p < 1.
        temperature: temperature of the relaxation; 0.1 in the paper.
        weight_regularizer: factor of the squared weights. For `N` training examples, a prior
            length scale `l` and a loss that is a mean over examples, it is `l ** 2 / N`. For the
            mean squared error, divide it by the precision of the noise in the data.
        dropout_regularizer: factor of the negative entropy of `p`. It is `1 / N` for the cross
            entropy. For the mean squared error it is `2 / N`, divided by the same precision.
        shared_dims: dimensions along which all elements share one number, such as `(2, 3)` for the
            channels of images.
        layer: module that is applied to the result, or None.
        device: device of `p_logit`.
        dtype: dtype of `p_logit`.

    Attributes:
        p_logit: parameter of shape (1,), `log(p / (1 - p))`. It can be loaded from state dicts in
            which its shape is ().
        p: the probability, a 0-d tensor.
        layer: the module that is applied to the result, or None. Its entries in the state dict
            begin with `layer.`.
    """

    is_dropout = True

    @property
    def independent_rows(self):
        # A negative dimension may be dimension 0: the number of dimensions is not known here.
        return all(dim > 0 for dim in self.shared_dims)

    def __init__(
        self,
        p=0.1,
        *,
        temperature=0.1,
        weight_regularizer=1e-6,
        dropout_regularizer=1e-5,
        shared_dims=(),
        layer=None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        name = type(self).__name__
        self.initial_p = float(check_p(self, p))
        if not 0 < self.initial_p < 1:
            raise ValueError(f"{name}: p is {p}, but expected between 0 and 1, both excluded")
        check_number(
            self, "temperature", temperature, lambda t: 0 < t < math.inf, "a positive number"
        )
        for argument, value in (
            ("weight_regularizer", weight_regularizer),
            ("dropout_regularizer", dropout_regularizer),
        ):
            expected = "a finite number that is not negative"
            check_number(self, argument, value, lambda v: 0 <= v < math.inf, expected)
        if layer is not None and not isinstance(layer, nn.Module):
            raise TypeError(f"{name}: layer is {layer!r}, but expected a torch.nn.Module")
        self.temperature = temperature
        self.weight_regularizer = weight_regularizer
        self.dropout_regularizer = dropout_regularizer
        self.shared_dims = tuple_of_integers(name, "shared_dims", shared_dims)
        self.layer = layer
        self.p_logit = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.constant_(self.p_logit, math.log(self.initial_p) - math.log1p(-self.initial_p))

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        key = f"{prefix}p_logit"
        if isinstance(state_dict.get(key), torch.Tensor) and state_dict[key].dim() == 0:
            state_dict[key] = state_dict[key].reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @property
    def p(self):
        return torch.sigmoid(self._logit)

    @property
    def _logit(self):
        # `sum` works for a distributed tensor too, whose only element may lie on another rank.
        return self.p_logit.sum()

    def forward(self, x):
        x = FF.concrete_dropout(
            x, self.p_logit, self.temperature, self.training, shared_dims=self.shared_dims
        )
        return x if self.layer is None else self.layer(x)

    def regularization(self, weight=None, input_features=None):
        """Computes the term that this module adds to the loss.

        With the weight `W` of the layer after this module and the number `K` of features that this
        module drops, the term is

            weight_regularizer * (W * W).sum() / (1 - p)
            + dropout_regularizer * K * (p * log(p) + (1 - p) * log(1 - p))

        Args:
            weight: a tensor, or a module with a tensor `weight`. None means `self.layer`.
            input_features: the number `K`. None means `in_features` or `in_channels` of the module,
                or the second size of a matrix.

        Returns:
            Tensor: a 0-d tensor, differentiable with respect to the weight and `p_logit`.

        Raises:
            TypeError: if there is no weight.
            ValueError: if `input_features` is None and `K` is not known.
        """
        name = f"{type(self).__name__}.regularization"
        owner = self.layer if weight is None else weight
        if owner is None:
            raise TypeError(f"{name}: weight is None, and this module was given no layer")
        matrix = owner.weight if isinstance(getattr(owner, "weight", None), torch.Tensor) else owner
        if not isinstance(matrix, torch.Tensor):
            raise TypeError(
                f"{name}: weight is a {type(owner).__name__}, but expected a tensor or a module "
                "with a tensor `weight`"
            )
        if input_features is None:
            input_features = getattr(owner, "in_features", getattr(owner, "in_channels", None))
        if input_features is None and matrix.dim() == 2:
            input_features = matrix.shape[1]
        if input_features is None:
            raise ValueError(
                f"{name}: weight has shape {tuple(matrix.shape)}, which does not tell the number "
                "of input features; pass input_features"
            )
        logit = self._logit
        # 1 / (1 - p) = 1 + e^logit. softplus computes log p and log(1 - p) without cancellation.
        weights = self.weight_regularizer * matrix.square().sum() * (1 + logit.exp())
        entropy = torch.sigmoid(logit) * _softplus(-logit) + torch.sigmoid(-logit) * _softplus(
            logit
        )
        return weights - self.dropout_regularizer * input_features * entropy

    def extra_repr(self):
        # A meta tensor has no value, and to read that of a distributed tensor is a collective call.
        if type(self.p_logit) in (torch.Tensor, nn.Parameter) and not self.p_logit.is_meta:
            text = f"p={self.p.item():.4g}, temperature={self.temperature}"
        else:
            text = f"initial_p={self.initial_p:.4g}, temperature={self.temperature}"
        return text + (f", shared_dims={self.shared_dims}" if self.shared_dims else "")


def _softplus(x):
    """`-log(sigmoid(-x))`, accurate in every dtype. Distributed tensors have no logsigmoid."""
    return F.softplus(x, threshold=50)


def concrete_regularization(model):
    """Sums `regularization()` of every `fused_dropout.ConcreteDropout` in a model.

    Add the result to a loss that is a mean over examples.

    Args:
        model: a `torch.nn.Module`.

    Returns:
        Tensor: a 0-d tensor, zero for a model without such modules.

    Raises:
        ValueError: if one of the modules has no `layer`. The error names it.
    """
    total = None
    for name, module in model.named_modules():
        if not isinstance(module, ConcreteDropout):
            continue
        if module.layer is None:
            raise ValueError(
                f"concrete_regularization: the ConcreteDropout {name!r} has no layer; pass "
                "layer= to it, or add its regularization(weight) to the loss yourself"
            )
        term = module.regularization()
        total = term if total is None else total.to(term) + term
    return torch.zeros((), device="cpu") if total is None else total


class Standout(Leaf, nn.Module):
    """Activation and dropout, where the pre-activation of a unit determines its probability.

    It replaces the activation and the dropout after a layer, and its input is the pre-activations:
    `nn.Sequential(nn.Linear(64, 512), fd.Standout())`. As in the paper, the probability to keep a
    unit is `sigmoid(alpha * z + beta)`, where `z` is computed with the weights of the layer itself.
    So this module has no parameters, does not change the keys of a state dict, and also works after
    convolutions.

    Use it instead of a fixed p in networks of fully connected layers, above all in autoencoders.
    There the paper found it better than dropout.

    Shape: any; the output has the shape of the input.

    Equivalent PyTorch code:

        q = torch.sigmoid(alpha * z + beta)
        torch.where(torch.rand_like(z) < q, relu(z), 0) if training else relu(z) * q

    Source: Ba and Frey, "Adaptive dropout for training deep neural networks", NeurIPS 2013. See
    also `fused_dropout.functional.standout`.

    Args:
        alpha: factor of the pre-activations. With `alpha=0` it is classic dropout that keeps a unit
            with probability `sigmoid(beta)`.
        beta: summand of the pre-activations.
        activation: one of `fused_dropout.functional.ACTIVATIONS`.
    """

    is_dropout = independent_rows = True

    def __init__(self, alpha=1.0, beta=0.0, activation="relu"):
        super().__init__()
        for argument, value in (("alpha", alpha), ("beta", beta)):
            check_number(self, argument, value, math.isfinite, "a finite number")
        self.alpha = alpha
        self.beta = beta
        self.activation = check_activation(self, activation)

    def forward(self, z):
        activated = FF.bias_act_dropout(z, None, 0.0, self.activation, training=False)
        return FF.standout(activated, z, self.alpha, self.beta, self.training)

    def extra_repr(self):
        return f"alpha={self.alpha}, beta={self.beta}, activation={self.activation!r}"
