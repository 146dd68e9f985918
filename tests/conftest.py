"""What all tests share."""

import torch

# One thread: the tensors are small, and results do not depend on the machine.
torch.set_num_threads(1)
