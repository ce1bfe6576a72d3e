"""What tests send: batches of requests, and strategies for their features."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from repro.lab.lifted import make_request
from repro.lab.lifted.request import FEATURES
from repro.lab.releases import FIXED, LAST, NEWEST
from repro.lab.upstream.standin_data import TokenizedGenerateReqInput

CONTAINED = NEWEST  # a release from 0.5.19 on: the failure of a send is a failed request, not a dead server
SHAPES = st.lists(st.integers(0, 5), min_size=1, max_size=3)
DTYPES = st.sampled_from(["float32", "float16", "bfloat16", "int64", "uint8", "bool"])
RELEASES = [LAST, FIXED, CONTAINED]
ANY = {  # what `batch` and an experiment are given
    "feature": st.sampled_from(FEATURES),
    "n": st.integers(1, 5),
    "prompts": st.integers(1, 3),
    "items": st.integers(1, 3),
    "shape": SHAPES,
    "dtype": DTYPES,
}


def batch(prompts: int, feature: str = "tensor", **more: object) -> list[TokenizedGenerateReqInput]:
    """Requests for a batch of prompts, each with pixels of its own."""
    return [make_request(feature, rid=f"request-{i}", seed=10 * i, **more) for i in range(prompts)]


def examples(count: int) -> settings:
    """So many examples, each as slow as it is."""
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
