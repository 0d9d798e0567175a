"""Modules around :mod:`fused_dropout.functional.noise`."""

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
    """Multiplies by normal noise of mean 1 and standard deviation ``sqrt(p / (1 - p))``.

    Args:
        p: probability to drop of the dropout that has the same mean and variance; 0 <= p < 1.
        shared_dims, noise_shape: as in :class:`fused_dropout.Dropout`.

    Shape: any; the output has the input's.

    Use it in place of :class:`Dropout` where zeros would hurt, as in regression or before a layer
    that takes logarithms of absolute values; Srivastava et al. found it as good or slightly better.
    In evaluation it is the identity.

    Equivalent: ``x * (1 + (p / (1 - p)) ** 0.5 * torch.randn_like(x))``.
    Source: Srivastava et al., JMLR 2014, section 10; see
    :func:`fused_dropout.functional.gaussian_dropout`.
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
    """Dropout that learns its probability, by gradient, together with the weights.

    The mask is relaxed to numbers between 0 and 1 (the Concrete distribution), through which the
    loss has a gradient by ``p``; a regulariser, which has to be added to the loss, keeps ``p`` from
    going to zero and makes it shrink as data grow. Put it before each layer with weights::

        net = nn.Sequential(
            fd.ConcreteDropout(layer=nn.Linear(64, 512)), nn.ReLU(),
            fd.ConcreteDropout(layer=nn.Linear(512, 1)),
        )
        loss = F.mse_loss(net(x), y) + fd.concrete_regularization(net)

    In evaluation it is the identity, as usual for an inverted scaling. The paper, which is about
    the uncertainty of predictions, samples there too and averages: set these modules alone to
    training mode, as :func:`fused_dropout.mc_dropout` does.

    Args:
        p: the probability to start with; 0 < p < 1.
        temperature: of the relaxation; 0.1 in the paper.
        weight_regularizer: factor of the squared weights. For ``N`` training examples, a prior
            length scale ``l`` and a loss that is a mean over examples ``l ** 2 / N``, for the mean
            squared error divided by the precision of the noise in the data.
        dropout_regularizer: factor of the negative entropy of ``p``: ``1 / N`` for the cross
            entropy, ``2 / N``, divided by the same precision, for the mean squared error.
        shared_dims: dimensions along which one number is shared: ``(2, 3)`` for channels of
            images.
        layer: if given, a module that the result goes through, whose input is what is dropped.

    Attributes:
        p_logit: parameter of shape (1,): ``log(p / (1 - p))``. State dicts in which its shape is ()
            can be loaded.
        p: its probability, a 0-d tensor.
        layer: as given, or None. With it, the state dict has its entries under ``layer.``.

    Shape: any; without ``layer`` the output has the input's.

    Equivalent::

        u = torch.rand_like(x)
        dropped = torch.sigmoid((p_logit + torch.logit(u)) / temperature)
        layer(x * (1 - dropped) / (1 - p))

    Source: Gal, Hron and Kendall, "Concrete dropout", NeurIPS 2017.
    """

    is_dropout = True

    @property
    def independent_rows(self):
        return all(dim > 0 for dim in self.shared_dims)  # a negative one may be the first

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
            expected = "a number that is not negative"
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
        # A sum, as the one element of a distributed tensor may lie on another rank.
        return self.p_logit.sum()

    def forward(self, x):
        x = FF.concrete_dropout(
            x, self.p_logit, self.temperature, self.training, shared_dims=self.shared_dims
        )
        return x if self.layer is None else self.layer(x)

    def regularization(self, weight=None, input_features=None):
        """What this layer adds to the loss: a 0-d tensor with a gradient by weights and ``p``.

        ``weight_regularizer * ||W||^2 / (1 - p) + dropout_regularizer * K * (p log p + (1 - p)
        log(1 - p))``, with ``W`` the weight that the result of this module is multiplied with and
        ``K`` the number of features that are dropped.

        Args:
            weight: a tensor, or a module with a ``weight``; ``self.layer`` if None.
            input_features: ``K``; if None, the module's ``in_features`` or ``in_channels``, or the
                second size of a matrix.

        Raises:
            TypeError: there is no weight. ValueError: ``K`` cannot be told.
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
                f"{name}: weight has shape {tuple(matrix.shape)}, so that input_features has to be "
                "given"
            )
        logit = self._logit
        # 1 / (1 - p) = 1 + e^logit; log p and log(1 - p) without a difference that cancels.
        weights = self.weight_regularizer * matrix.square().sum() * (1 + logit.exp())
        entropy = torch.sigmoid(logit) * _softplus(-logit) + torch.sigmoid(-logit) * _softplus(
            logit
        )
        return weights - self.dropout_regularizer * input_features * entropy

    def extra_repr(self):
        # On the meta device there is no value, and that of a distributed tensor asks all ranks.
        if type(self.p_logit) in (torch.Tensor, nn.Parameter) and not self.p_logit.is_meta:
            text = f"p={self.p.item():.4g}, temperature={self.temperature}"
        else:
            text = f"initial_p={self.initial_p:.4g}, temperature={self.temperature}"
        return text + (f", shared_dims={self.shared_dims}" if self.shared_dims else "")


def _softplus(x):
    """``-log(sigmoid(-x))``, exact in every dtype; distributed tensors have no logsigmoid."""
    return F.softplus(x, threshold=50)


def concrete_regularization(model):
    """The sum of ``regularization()`` of every :class:`ConcreteDropout` in a model.

    To be added to the loss, a mean over examples. Zero for a model without one.

    Raises:
        ValueError: one of them was given no ``layer``, so that its weight is not known; it is
            named.
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
    """An activation with dropout whose probability each unit's own pre-activation decides.

    It stands behind a layer in place of the activation and the dropout, and takes the
    pre-activations: ``nn.Sequential(nn.Linear(64, 512), fd.Standout())``. In the paper the
    probability to keep is ``sigmoid(alpha * z + beta)`` with the weights of the layer itself, so
    that there is nothing else to learn or to store; for the same reason this module has no weights,
    goes behind convolutions too, and changes no key of a state dict.

    Args:
        alpha, beta: scale and shift of the pre-activations. With ``alpha = 0`` it is classic
            dropout with a probability of ``sigmoid(beta)`` to keep.
        activation: one of ``fused_dropout.functional.ACTIVATIONS``.

    Shape: any; the output has the input's.

    Use it in place of a fixed p in networks of fully connected layers, above all autoencoders,
    where the paper found it to be better than dropout.

    Equivalent::

        q = torch.sigmoid(alpha * z + beta)
        torch.where(torch.rand_like(z) < q, relu(z), 0) if training else relu(z) * q

    Source: Ba and Frey, "Adaptive dropout for training deep neural networks", NeurIPS 2013; see
    :func:`fused_dropout.functional.standout`.
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
