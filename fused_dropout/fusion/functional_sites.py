"""Pattern for modules whose own code calls dropout functions, such as ``F.dropout``.

It is used where no other pattern fuses the module. Nothing is fused with its neighbours: the calls
go to this package's functions, which store no mask.
"""

from fused_dropout.fusion.class_swap import FusedMixin, class_of
from fused_dropout.fusion.redirected_classes import has_redirected_methods
from fused_dropout.fusion.registry import FUNCTIONAL, add_pattern
from fused_dropout.fusion.sites import calls_of


class RedirectedModule(FusedMixin):
    """The module runs its own ``forward``, in which dropout functions are redirected."""

    @staticmethod
    def reason_not_fusable(module):
        return None

    def forward(self, *args, **kwargs):
        return self.unfused_forward(*args, **kwargs)


def _describe(module):
    cls = class_of(module)
    functions = dict.fromkeys(function for function, _, _ in calls_of(cls))
    return f"{', '.join(functions)} without a stored mask"


add_pattern(FUNCTIONAL, RedirectedModule, has_redirected_methods, _describe)
