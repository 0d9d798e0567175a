"""The pattern for code of any origin."""

from fused_dropout.fusion.activations import activation_not_fusable
from fused_dropout.fusion.class_swap import FusedMixin, class_of, fused_class, is_fused, mixin_of
from fused_dropout.fusion.eligibility import is_unusual
from fused_dropout.fusion.fused_calls import linear_called
from fused_dropout.fusion.norms import norm_not_fusable
from fused_dropout.fusion.registry import STRUCTURE, Pattern, add_pattern_of_modules
from fused_dropout.fusion.structure.plan import (
    can_be_rewritten,
    plan,
    plan_of,
    variant_of,
)
from fused_dropout.fusion.structure.roles import (
    ACTIVATION,
    INPLACE_ACTIVATION,
    LINEAR,
    MODULE,
    NORM,
    RELU,
)


class RewrittenModule(FusedMixin):
    """The module runs its own ``forward``, in which some expressions are calls of kernels."""

    #: The :class:`~.plan.Plan`, and its checks, which every call runs.
    plan = None
    checks = ()

    @classmethod
    def members(cls, original, variant):
        found = plan(original, variant)
        if found is None:  # the code is not that of the time when the model was saved
            return {}
        return {
            **found.methods,
            "bypassed_methods": ("forward", *found.rewrites),
            "plan": found,
            "fused_dropouts": found.drops,
            "fuses_calls": found.lines,
            "checks": found.checks,
        }

    @staticmethod
    def reason_not_fusable(module):
        return _dropout_not_fusable(module, module.checks)

    def runs_fused(self, args, kwargs):
        return super().runs_fused(args, kwargs) and not any(
            map(is_unusual, (*args, *kwargs.values()))
        )

    def in_training(self):
        return self.training or any(
            getattr(_child(self, names), "training", False) for _, names, _ in self.checks
        )

    def fused_forward(self, *args, **kwargs):
        return self.unfused_forward(*args, **kwargs)


def _dropout_not_fusable(module, checks):
    """The reason why one of the dropout layers cannot be bypassed; None if all can."""
    for path, names, not_fusable in checks:
        child = _child(module, names)
        reason = f"{path} is gone" if child is None else not_fusable(path, child)
        if reason is not None:
            return reason
    return None


def _child(module, names):
    for name in names:
        module = getattr(module, name, None)
    return module


def reason_not_rewritable(module):
    """The reason why the code of a module is not rewritten; "" if there is nothing to fuse."""
    found = plan_of(module)
    return "" if found is None else _dropout_not_fusable(module, found.checks)


def _adapter_called(name, child):
    return linear_called(name, child) if hasattr(child, "weight") else None


_NOT_FUSABLE = {
    LINEAR: linear_called,
    MODULE: _adapter_called,
    NORM: norm_not_fusable,
    ACTIVATION: activation_not_fusable,
    RELU: activation_not_fusable,
    INPLACE_ACTIVATION: activation_not_fusable,
}


def rewritten_class(mixin, module):
    """The fused class for a module; ``mixin`` is a subclass of :class:`RewrittenModule`."""
    return fused_class(mixin, class_of(module), variant_of(module))


def describe_rewriting(module):
    """What is fused by rewriting the code of a module, for the report."""
    if is_fused(module):
        found = module.plan if isinstance(module, RewrittenModule) else None
    else:
        found = plan_of(module)
    if found is None:
        return ""
    notes = (
        _NOT_FUSABLE[role](path, _child(module, path.split(".")))
        for path, role in found.children.items()
    )
    notes = [note for note in notes if note is not None]
    text = "; ".join(found.texts)
    return f"{text}; not fused: {'; '.join(notes)}" if notes else text


add_pattern_of_modules(
    Pattern(
        STRUCTURE,
        matches=can_be_rewritten,
        reason_not_fusable=reason_not_rewritable,
        fused_class=lambda module: rewritten_class(RewrittenModule, module),
        made=lambda fused: mixin_of(fused) is RewrittenModule,
        describe=describe_rewriting,
    )
)
