"""What all tests share."""

import os

# As the command line does it, before torch is imported: threads that wait must not spin for long.
os.environ.setdefault("GOMP_SPINCOUNT", "100000")
# One thread for each of the processes that run tests, and for those that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    """One thread for each test: its tensors are small, and a command that ran before may have chosen another number."""
    torch.set_num_threads(1)
