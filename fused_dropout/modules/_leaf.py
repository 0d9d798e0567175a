"""How torch.fx sees the modules of this package."""


class Leaf:
    """A module that symbolic tracing records a call of, instead of looking inside: a mixin.

    So ``train()`` and ``eval()`` of the traced model switch the dropping, as with torch.nn's
    layers. Tracers know what is a leaf by ``module.__module__``, which for these instances says
    torch.nn; that of the class, where pickles look for it, stays. A subclass that is defined
    elsewhere is looked into, as one of torch's layers is.

    A module that consists of leaves and calls nothing else needs no mixin. In the list of bases it
    stands behind the one that has ``__init__``, whose signature the class then shows.
    """

    def __new__(cls, *args, **kwargs):
        module = super().__new__(cls)
        if cls.__module__.startswith("fused_dropout."):
            module.__dict__["__module__"] = "torch.nn"
        return module
