"""The number of examples of a fuzz test, and the file that holds the running call after a crash.

Environment variables:

FUSED_DROPOUT_FUZZ_EXAMPLES=n  each test runs n examples, generated from the seed given to pytest
FUSED_DROPOUT_FUZZ_CALL=file   each call is written to this file before it runs
"""

import os
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings

import fused_dropout.functional as FF

_EXAMPLES = os.environ.get("FUSED_DROPOUT_FUZZ_EXAMPLES")
_CALL = os.environ.get("FUSED_DROPOUT_FUZZ_CALL")


def _is_compiled(activation):
    """Whether the build has the activation. A build with sanitizers has only some."""
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


def fuzz_settings(examples):
    """The settings of a test. In the normal test suite it has `examples` fixed examples."""
    return settings(
        max_examples=int(_EXAMPLES or examples),
        derandomize=_EXAMPLES is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )


def announce(call):
    """Saves the call that is about to run."""
    if _CALL:
        Path(_CALL).write_text(repr(call) + "\n")
