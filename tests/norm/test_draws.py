"""Eager calls of the normalised operators draw and compute by one operator."""

from tests.row_operators.draws import *  # noqa: F403
