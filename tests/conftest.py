import os

import torch

if not torch.cuda.is_available():
    # Without a GPU, Triton's kernels run through its interpreter. Triton reads this when it is first imported, and
    # torch.compile imports it, so it has to be set before any test does.
    os.environ["TRITON_INTERPRET"] = "1"
