"""The grade of an attempt at the fix: each wrong way has a hint of its own, each right way passes."""

from __future__ import annotations

import copy
import dataclasses
import threading

import pytest

from fixed import mutants
from fixed.detach import detach
from repro.lab.teaching import grade as grades
from repro.lab.teaching.grade import grade
from tests.attempts import first_item_only


def unchanged(request):
    return request


def forgot_to_return(request):
    detach(request)


def forgot_to_return_text(request):
    return detach(request) if request.mm_inputs else None


def returns_mm_inputs(request):
    return detach(request).mm_inputs


def raises(request):
    return request.mm_imputs


def breaks_text(request):
    request.mm_inputs = copy.copy(request.mm_inputs)
    request.mm_inputs.mm_items = [copy.copy(item) for item in request.mm_inputs.mm_items]
    return request


def breaks_lists(request):
    for item in detach(request).items():
        item.feature = item.feature.clone()
    return request


def drops_the_image(request):
    request.mm_inputs = None
    return request


def drops_an_item(request):
    detach(request)
    if request.mm_inputs:
        del request.mm_inputs.mm_items[1:]
    return request


def writes_to_the_source(request):
    for item in request.items():
        item.feature = copy.deepcopy(item.feature)
    return request


def writes_to_the_pixels(request):
    for item in detach(request).items():
        item.feature *= 2
    return request


def damages(request):
    for item in detach(request).items():
        item.feature = item.feature + 1
    return request


def swaps(request):
    if detach(request).mm_inputs:
        request.mm_inputs.mm_items.reverse()
    return request


def mm_inputs_and_the_shared_list(request):
    if request.mm_inputs:
        request.mm_inputs = copy.copy(request.mm_inputs)
        request.mm_inputs.mm_items[:] = [copy.copy(item) for item in request.mm_inputs.mm_items]
    return request


def to_numpy(request):
    for item in detach(request).items():
        if hasattr(item.feature, "numpy"):
            item.feature = item.feature.numpy()
    return request


def remembers():
    made = []

    def prepare(request):
        if request.mm_inputs:
            made.append(detach(copy.copy(request)).mm_inputs)
            request.mm_inputs = copy.copy(made[0])
        return request

    return prepare


def changes_the_rid(request):
    return dataclasses.replace(detach(request), rid="mine")


def with_items(request, of):
    """The request with an mm_inputs of its own, whose list holds what `of` makes of each item."""
    if request.mm_inputs:
        request.mm_inputs = dataclasses.replace(request.mm_inputs, mm_items=[*map(of, request.mm_inputs.mm_items)])
    return request


def with_feature(request, of):
    return with_items(request, lambda item: dataclasses.replace(item, feature=of(item.feature)))


def exits(request):
    raise SystemExit("enough")


def presses_ctrl_c(request):
    raise KeyboardInterrupt


def no_list(request):
    request.mm_inputs = dataclasses.replace(request.mm_inputs, mm_items=None)
    return request


def no_list_for_anybody(request):
    request.mm_inputs.mm_items = None
    return request


def a_number_for_mm_inputs(request):
    request.mm_inputs = 7
    return request


def numbers_for_items(request):
    return with_items(request, lambda item: 7)


def a_pointer_for_the_feature(request):
    return with_feature(request, lambda feature: object())


def a_list_for_a_tensor(request):
    return with_feature(request, lambda feature: [feature])


WRONG = [
    (unchanged, "one image", "crashed", grades.UNTOUCHED),
    (forgot_to_return, "one image", "refused", grades.NOT_RETURNED),
    (forgot_to_return_text, "text only", "refused", grades.NOT_RETURNED),
    (returns_mm_inputs, "one image", "refused", "prepare returned a MultimodalInputs"),
    (raises, "one image", "refused", "prepare raised AttributeError"),
    (breaks_text, "text only", "refused", "Its mm_inputs is None"),
    (breaks_lists, "a list of tensors", "refused", "A feature is not always one tensor"),
    (drops_the_image, "one image", "survived", grades.DROPPED),
    (drops_an_item, "two images", "survived", grades.DROPPED),
    (first_item_only, "two images", "crashed", "Of 2 items, number 2 is still the source's"),
    (writes_to_the_source, "one image", "refused", grades.MUTATED),
    (writes_to_the_pixels, "one image", "survived", grades.MUTATED),
    (damages, "one image", "survived", grades.DAMAGED),
    (swaps, "two images", "survived", grades.DAMAGED),
    (mutants.the_holder_only, "one image", "crashed", grades.COPIED_AGAIN),
    (mutants.only_mm_inputs, "one image", "crashed", grades.ONLY_MM_INPUTS),
    (mutants.new_list_of_the_same_items, "one image", "crashed", grades.SAME_ITEMS),
    (mutants.new_items_in_the_shared_list, "one image", "crashed", grades.SHARED_LIST),
    (mm_inputs_and_the_shared_list, "one image", "crashed", grades.SHARED_LIST),
    (mutants.new_items_in_the_shared_mm_inputs, "one image", "crashed", grades.SHARED_MM_INPUTS),
    (remembers(), "one image", "crashed", grades.REMEMBERED),
    (exits, "one image", "refused", "prepare raised SystemExit: enough"),
    (presses_ctrl_c, "one image", "refused", "prepare raised KeyboardInterrupt"),
    (no_list, "one image", "refused", "mm_items is a NoneType"),
    (no_list_for_anybody, "one image", "refused", "mm_items is a NoneType: copy"),
    (a_number_for_mm_inputs, "one image", "refused", "mm_inputs is a int"),
    (numbers_for_items, "one image", "refused", "mm_items hold a int"),
    (a_pointer_for_the_feature, "one image", "crashed", "feature is a object"),
    (a_list_for_a_tensor, "one image", "survived", grades.CONVERTED),
    (changes_the_rid, "one image", "survived", "prepare changed the request's rid"),
]


@pytest.mark.parametrize(("prepare", "case", "verdict", "hint"), WRONG, ids=[row[0].__name__ for row in WRONG])
def test_a_wrong_way_has_its_hint(prepare, case, verdict, hint):
    result = grade(prepare)
    assert not result.passed
    assert (result.case, result.verdict) == (case, verdict)
    assert hint in result.hint
    assert result.hint in str(result)


def test_an_attempt_that_shares_nothing_proves_nothing():
    """The attempt makes arrays of the tensors, and arrays are sent inline. So there is no crash, but also no name."""
    result = grade(to_numpy)
    assert (result.passed, result.case, result.verdict, result.faults) == (False, "one image", "unknown", [])
    assert "proves nothing" in result.hint


def test_the_hints_differ():
    hints = [hint for *_, hint in WRONG]
    assert len(set(hints)) == len(hints) - 5  # two ways each: no return, dropped, mutated, damaged, the shared list


def loops(request):
    while True:
        pass


def waits(request):
    threading.Event().wait()


def loops_when_it_is_sent():
    calls = []

    def prepare(request):
        calls.append(request)
        return detach(request) if len(calls) <= 2 else loops(request)

    return prepare


@pytest.mark.parametrize("prepare", [loops, waits])
def test_an_attempt_that_does_not_end_is_hung_and_the_limit_is_named(prepare):
    result = grade(prepare, limit=0.3)
    assert (result.passed, result.case, result.verdict) == (False, "one image", "hung")
    assert "did not end within 0.3 s" in str(result)
    assert grade(detach).passed  # and the next attempt is graded


def test_an_attempt_that_hangs_in_the_lab_alone_is_hung_there():
    result = grade(loops_when_it_is_sent(), limit=0.5)
    assert (result.passed, result.verdict, result.hint) == (False, "hung", grades.UNEXPLAINED)


def clones(request):
    for item in detach(request).items():
        item.feature = copy.deepcopy(item.feature)
    return request


def builds_anew(request):
    if not request.mm_inputs:
        return request
    items = [dataclasses.replace(item) for item in request.mm_inputs.mm_items]
    return dataclasses.replace(request, mm_inputs=dataclasses.replace(request.mm_inputs, mm_items=items))


@pytest.mark.parametrize(
    ("prepare", "copied"), [(detach, 0), (builds_anew, 0), (copy.deepcopy, 301_056), (clones, 301_056)]
)
def test_a_right_way_passes_at_its_price(prepare, copied):
    result = grade(prepare)
    assert (result.passed, result.verdict, result.faults) == (True, "survived", [])
    assert (result.copied, result.shared) == (copied, copied == 0)
    assert ("Right, but costly" in result.hint) == (copied > 0)
    assert f"{copied:,} bytes" in repr(result)


def test_what_the_lab_alone_can_see_is_told_as_it_is():
    """The attempt is right in the first calls and wrong in the lab. No hint of the kit fits, so the faults are
    shown."""
    calls = []

    def tires(request):
        calls.append(request)
        return detach(request) if len(calls) <= 2 else request

    result = grade(tires)
    assert (result.passed, result.verdict, result.hint) == (False, "crashed", grades.UNEXPLAINED)
    assert result.faults


def test_n_of_one_expands_nothing():
    with pytest.raises(ValueError, match="n = 1"):
        grade(detach, n=1)
