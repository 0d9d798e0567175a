"""The normalised operators under torch.compile, torch.export and opcheck."""

from tests.row_operators.compile import *  # noqa: F403
