"""Make torch.bin, tensors of every kind as torch.save writes them, and torch.npz, what is in them.

Run where torch is installed (made with torch 2.13.0): `python tests/golden/make_torch_file.py`. The test that reads
the files needs no torch.
"""

import collections
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).resolve().parent


def main() -> None:
    """Write the files."""
    torch.manual_seed(0)
    matrix = torch.randn(4, 6)
    tensors = collections.OrderedDict(
        {
            "float": matrix,
            "shared": matrix,
            "transposed": matrix.T,
            "part": matrix[1:3, ::2],
            "half": matrix.half(),
            "bfloat16": matrix.bfloat16(),
            "double": matrix.double(),
            "long": torch.arange(5),
            "int": torch.arange(5, dtype=torch.int32),
            "bool": torch.tensor([True, False]),
            "scalar": torch.tensor(2.5),
            "empty": torch.empty(0, 3),
            "expanded": torch.tensor([1.0, 2.0]).expand(3, 2).contiguous(),
            "parameter": torch.nn.Parameter(matrix[0]),
        }
    )
    tensors._metadata = {"": {"version": 1}}  # as a module's state_dict has it
    torch.save(tensors, FOLDER / "torch.bin")
    arrays = {
        name: (each.float() if each.dtype == torch.bfloat16 else each).detach().numpy()
        for name, each in tensors.items()
    }
    np.savez_compressed(FOLDER / "torch.npz", **arrays)


if __name__ == "__main__":
    main()
