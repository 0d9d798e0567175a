"""What modules that drop single elements have in common."""

from fused_dropout.functional._arguments import check_mode
from fused_dropout.modules._leaf import Leaf


def mode_repr(mode):
    return "" if mode == "inverted" else f", mode={mode!r}"


class DropOptions(Leaf):
    """The keyword-only options ``mode``, ``shared_dims`` and ``noise_shape``: a mixin."""

    is_dropout = True

    # Pickles of torch.nn's own layers have none of these.
    mode = "inverted"
    shared_dims = ()
    noise_shape = None

    def _init_options(self, mode, shared_dims, noise_shape):
        name = type(self).__name__
        self.mode = check_mode(type(self).__name__, mode)
        self.shared_dims = tuple(shared_dims)
        self.noise_shape = None if noise_shape is None else tuple(noise_shape)
        if len(set(self.shared_dims)) != len(self.shared_dims):
            raise ValueError(f"{name}: shared_dims names a dimension twice: {self.shared_dims}")
        if self.shared_dims and noise_shape is not None:
            raise ValueError(
                f"{name}: shared_dims is {self.shared_dims} and noise_shape is "
                f"{self.noise_shape}, but only one of them can be given"
            )

    @property
    def independent_rows(self):
        # A negative dimension may be the first.
        if self.noise_shape is not None:
            return self.noise_shape[:1] == (None,)
        return all(dim > 0 for dim in self.shared_dims)

    def _drop_options(self):
        return {
            "mode": self.mode,
            "shared_dims": self.shared_dims,
            "noise_shape": self.noise_shape,
        }

    def _options_repr(self):
        text = mode_repr(self.mode)
        if self.shared_dims:
            text += f", shared_dims={self.shared_dims}"
        if self.noise_shape is not None:
            text += f", noise_shape={self.noise_shape}"
        return text
