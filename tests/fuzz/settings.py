"""How many examples a fuzz test runs, and the file that names the current call after a crash.

FUSED_DROPOUT_FUZZ_EXAMPLES=n  examples of each test, from the seed that pytest is given
FUSED_DROPOUT_FUZZ_CALL=file   the call that runs, written before it does
"""

import os
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings

import fused_dropout.functional as FF

_EXAMPLES = os.environ.get("FUSED_DROPOUT_FUZZ_EXAMPLES")
_CALL = os.environ.get("FUSED_DROPOUT_FUZZ_CALL")


def _is_compiled(activation):
    """A build with sanitizers has a few of them: which memory a kernel touches depends on none."""
    try:
        FF.bias_act_dropout(
            torch.zeros(1), p=0.5, activation=activation, rng_state=torch.tensor([0, 0])
        )
    except ValueError as error:
        if "does not have this activation" not in str(error):
            raise
        return False
    return True


ACTIVATIONS = tuple(filter(_is_compiled, FF.ACTIVATIONS))


def few(examples):
    """The settings of a test; in the normal suite it has this many examples, always the same."""
    return settings(
        max_examples=int(_EXAMPLES or examples),
        derandomize=_EXAMPLES is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )


def announce(call):
    if _CALL:
        Path(_CALL).write_text(repr(call) + "\n")
