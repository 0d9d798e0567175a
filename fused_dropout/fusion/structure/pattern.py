"""The pattern for code of any origin."""

from fused_dropout.fusion.class_swap import FusedMixin, fused_class, mixin_of
from fused_dropout.fusion.drop_path import drop_path_not_fusable
from fused_dropout.fusion.dropout_layers import dropout_not_fusable
from fused_dropout.fusion.registry import STRUCTURE, Pattern, add_pattern_of_modules
from fused_dropout.fusion.structure.plan import (
    can_be_rewritten,
    class_of,
    plan,
    plan_of,
    variant_of,
)
from fused_dropout.fusion.structure.roles import DROP_PATH


class RewrittenModule(FusedMixin):
    """The module runs its own ``forward``, in which some expressions are calls of kernels."""

    #: ``(path, names in the path, function that checks the child)`` of dropout layers
    checks = ()

    @classmethod
    def members(cls, original, variant):
        found = plan(original, variant)
        if found is None:  # the code is not that of the time when the model was saved
            return {}
        roles = dict(variant)
        return {
            **found.methods,
            "bypassed_methods": ("forward", *found.rewrites),
            "fused_dropouts": found.drops,
            "fuses_calls": found.lines,
            "checks": tuple(
                (
                    name,
                    tuple(name.split(".")),
                    drop_path_not_fusable if roles[name] == DROP_PATH else dropout_not_fusable,
                )
                for name in found.drops
            ),
        }

    @staticmethod
    def reason_not_fusable(module):
        for path, names, not_fusable in module.checks:
            reason = not_fusable(path, _child(module, names))
            if reason is not None:
                return reason
        return None

    def in_training(self):
        return self.training or any(_child(self, names).training for _, names, _ in self.checks)

    def fused_forward(self, *args, **kwargs):
        return self.unfused_forward(*args, **kwargs)


def _child(module, names):
    for name in names:
        module = getattr(module, name)
    return module


add_pattern_of_modules(
    Pattern(
        STRUCTURE,
        matches=can_be_rewritten,
        reason_not_fusable=lambda module: "" if plan_of(module) is None else None,
        fused_class=lambda module: fused_class(
            RewrittenModule, class_of(module), variant_of(module)
        ),
        made=lambda fused: mixin_of(fused) is RewrittenModule,
        describe=lambda module: ", ".join(plan_of(module).texts),
    )
)
