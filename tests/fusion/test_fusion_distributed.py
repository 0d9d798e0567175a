"""DistributedDataParallel and FSDP2 with fused models, in two processes over gloo."""

import json
import time

import pytest
import torch

from tests.fusion.fusion_ranks import CHECKS, RANKS, run

LIMIT = 180  # seconds; enough for a busy machine


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of all checks, for each rank. The processes start once."""
    folder = tmp_path_factory.mktemp("ranks")
    context = torch.multiprocessing.spawn(run, (str(folder),), RANKS, join=False)
    end = time.monotonic() + LIMIT
    while not context.join(timeout=max(end - time.monotonic(), 0.0)):
        if time.monotonic() >= end:
            for process in context.processes:
                process.kill()
            pytest.fail(f"the processes did not end within {LIMIT} seconds")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.parametrize("check", CHECKS)
def test_two_processes(results, check):
    for result in results:
        assert result[check] is None, result[check]
