"""Options of the modules that drop single elements."""

import operator

from fused_dropout.functional._arguments import check_mode
from fused_dropout.modules._leaf import Leaf


def mode_repr(mode):
    return "" if mode == "inverted" else f", mode={mode!r}"


class DropOptions(Leaf):
    """Mixin with the keyword-only options `mode`, `shared_dims` and `noise_shape`."""

    is_dropout = True

    # Defaults for pickles of torch.nn layers, which do not have these attributes.
    mode = "inverted"
    shared_dims = ()
    noise_shape = None

    def _init_options(self, mode, shared_dims, noise_shape):
        name = type(self).__name__
        self.mode = check_mode(name, mode)
        self.shared_dims = tuple_of_integers(name, "shared_dims", shared_dims)
        self.noise_shape = None
        if noise_shape is not None:
            self.noise_shape = tuple_of_integers(name, "noise_shape", noise_shape, or_none=True)
        if len(set(self.shared_dims)) != len(self.shared_dims):
            raise ValueError(f"{name}: shared_dims names a dimension twice: {self.shared_dims}")
        if self.shared_dims and noise_shape is not None:
            raise ValueError(
                f"{name}: shared_dims is {self.shared_dims} and noise_shape is "
                f"{self.noise_shape}, but only one of them can be given"
            )

    @property
    def independent_rows(self):
        # A negative dimension may be dimension 0: the number of dimensions is not known here.
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


def tuple_of_integers(name, argument, values, or_none=False):
    try:
        return tuple(
            value if or_none and value is None else operator.index(value) for value in values
        )
    except TypeError:
        expected = "a sequence of integers" + (" or None" if or_none else "")
        raise TypeError(f"{name}: {argument} is {values!r}, but expected {expected}") from None
