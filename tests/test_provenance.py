"""Provenance: on every case that both can run, lab and engine give the same verdict."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fixed.detach import detach
from repro.lab.lifted import make_request, run
from tests import machine, scenes


def in_the_lab(case: str) -> dict[str, Any]:
    """The lab's arguments for one of the engine's cases."""
    colours, n = scenes.CASES[case]
    feature = "tensor" if colours else "text"
    prompts = range(max(1, len(colours)))
    return {"request": [make_request(feature, rid=f"request-{i}", seed=10 * i) for i in prompts], "n": n}


@pytest.mark.network
@pytest.mark.engine
def test_the_trigger_table_is_as_known():
    """Every row that can run on this machine is measured, also the engine's rows. Every other row says why it is not
    run."""
    told = machine.command("-m", "repro.lab", "--when", "--json")
    rows = json.loads(told.stdout)
    assert told.returncode == 0, [row for row in rows if row["differs"]]
    assert {row["evidence"] for row in rows if row["outcome"] != "not run"} == {"lab", "engine"}
    assert [row["condition"] for row in rows if row["outcome"] == "not run"] == [
        'format="precomputed_embedding" (in .feature)',
        "a tensor left on the GPU, or CUDA IPC",
        "dp_size > 1",
    ]
    assert all(row["detail"] for row in rows if row["outcome"] == "not run")


@pytest.mark.parametrize("case", scenes.CASES)
def test_fixed_lab_agrees_with_the_fixed_engine(case, fixed_engine):
    lab = run(**in_the_lab(case), fix=detach)
    assert lab.verdict.outcome == fixed_engine.outcome == "survived"
    assert len(lab.verdict.answers) == len(fixed_engine.answers[case])
    assert lab.faults() == []


@pytest.mark.parametrize("case", ["n = 1", "another image", "text only, n = 4"])
def test_lab_agrees_with_what_the_released_engine_survives(case, released):
    answered = {event["case"]: event["answers"] for event in released("n = 2").events if event["what"] == "case"}
    lab = run(**in_the_lab(case))
    assert lab.verdict.outcome == "survived"
    assert len(lab.verdict.answers) == len(answered[case])


@pytest.mark.parametrize("case", ["n = 2", "n = 3", "n = 8", "two prompts, n = 2"])
def test_lab_agrees_with_how_the_released_engine_dies(case, released):
    engine, lab = released(case), run(**in_the_lab(case)).verdict
    for what in ("outcome", "error", "errno", "where"):
        assert getattr(lab, what) == getattr(engine, what), what
    assert lab.life_of_segment() == engine.life_of_segment() == ["create", "open", "unlink", "open failed"]
