"""How torch.fx traces the modules of this package."""


class Leaf:
    """Mixin for modules that torch.fx records as one call instead of tracing into `forward`.

    `train()` and `eval()` of the traced model therefore switch dropout on and off, as with the
    layers of torch.nn. Tracers treat a module as a leaf if its `__module__` starts with "torch.nn",
    so instances get this attribute. The attribute of the class does not change, because pickles
    use it. A subclass that is defined outside of this package is traced into, as a subclass of a
    torch.nn layer is.

    A module that only calls leaf modules does not need this mixin. List the mixin after the base
    class that defines `__init__`, so that `inspect.signature` finds the signature of `__init__`.
    """

    def __new__(cls, *args, **kwargs):
        module = super().__new__(cls)
        if cls.__module__.startswith("fused_dropout."):
            module.__dict__["__module__"] = "torch.nn"
        return module
