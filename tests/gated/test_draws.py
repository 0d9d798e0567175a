"""Eager calls of the gated operators draw a state and call one operator."""

from tests.row_operators.draws import *  # noqa: F403
