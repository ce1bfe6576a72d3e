"""Requests with features of random bytes, and digests by which the scheduler checks that the bytes arrived."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from repro.lab.upstream.standin_data import MultimodalDataItem, MultimodalInputs, TokenizedGenerateReqInput

FEATURES = ("tensor", "list", "tuple", "numpy", "precomputed_embeddings", "text")
PAGE, LARGE = 4096, 1 << 20  # bytes
SHAPE = (64, 1176)  # what Qwen2.5-VL's image processor makes of 112 x 112 pixels: patches x values, 301 kB


def make_request(
    feature: str = "tensor",
    *,
    shape: Sequence[int] = SHAPE,
    dtype: str = "float32",
    items: int = 1,
    rid: str = "request-0",
    seed: int = 0,
) -> TokenizedGenerateReqInput:
    """A tokenized request with `items` items. Each item has a feature of random bytes, which `seed` decides.

    `feature` is one of FEATURES: `list` and `tuple` hold two tensors each, `precomputed_embeddings` is a tensor in the
    attribute of that name, `text` is a request without an image. `dtype` is torch's name. Raises ValueError for any
    other `feature`.
    """
    if feature not in FEATURES:
        raise ValueError(f"{feature!r} is not a feature kind: give one of {', '.join(FEATURES)}")
    if feature == "text":
        return TokenizedGenerateReqInput(rid)
    made = [_item(feature, shape, dtype, seed + index) for index in range(items)]
    request = TokenizedGenerateReqInput(rid, MultimodalInputs(made))
    request.checksums = checksums(request)
    return request


def shape_of(side: int) -> tuple[int, int]:
    """The shape of the feature (float32) that Qwen2.5-VL's image processor makes of `side` x `side` pixels: sides are
    rounded to 28, and a patch is 14 x 14 pixels x 3 colors, twice. 1536 pixels: 12,100 patches, 56.9 MB."""
    patches = 2 * max(1, round(side / 28))
    return patches**2, 1176


def bytes_of(side: int) -> int:
    """The size in bytes of the feature of an image of `side` x `side` pixels."""
    return 4 * math.prod(shape_of(side))


def checksums(request: TokenizedGenerateReqInput) -> list[str]:
    """One digest for each array of bytes that the request's items carry, in order."""
    return [digest(array) for array in arrays(request)]


def arrays(request: TokenizedGenerateReqInput) -> Iterator[Any]:
    """The tensors and numpy arrays that the request's items carry, in order."""
    for item in request.items():
        for value in (item.feature, item.precomputed_embeddings):
            if value is not None:
                yield from value if isinstance(value, (list, tuple)) else [value]


def digest(array: Any) -> str:
    """A digest of an array's bytes, shape and type. A tensor and its clone have the same digest. The digest of a large
    array is made from the sum of each page, and not from each byte, so that the scheduler does not lose much time."""
    import torch

    tensor = torch.as_tensor(array)
    content = tensor.contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)
    if len(content) > LARGE:
        whole = len(content) // PAGE * PAGE
        sums = content[:whole].view(torch.int64).reshape(-1, PAGE // 8).sum(1)
        content = torch.cat([sums.view(torch.uint8), content[whole:]])
    told = content.numpy().tobytes() + f"{tuple(tensor.shape)} {tensor.dtype}".encode()
    return hashlib.blake2b(told, digest_size=8).hexdigest()


def _item(feature: str, shape: Sequence[int], dtype: str, seed: int) -> MultimodalDataItem:
    one, other = (_tensor(shape, dtype, 2 * seed + which) for which in (0, 1))
    made = {
        "tensor": one,
        "list": [one, other],
        "tuple": (one, other),
        "numpy": one.float().numpy(),
        "precomputed_embeddings": one,
    }[feature]
    if feature == "precomputed_embeddings":
        return MultimodalDataItem(precomputed_embeddings=made)
    return MultimodalDataItem(feature=made)


def _tensor(shape: Sequence[int], dtype: str, seed: int) -> Any:
    import torch

    dice = torch.Generator().manual_seed(seed)
    kind = getattr(torch, dtype)
    if kind.is_floating_point:
        return torch.rand(tuple(shape), generator=dice).to(kind)
    return torch.randint(0, 2 if kind is torch.bool else 100, tuple(shape), generator=dice).to(kind)
