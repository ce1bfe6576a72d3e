"""Grade an attempt at the fix: a function that prepares each copied request at the two expansion points.

Two judges look at an attempt, and both must find nothing wrong. The first judge calls the function on requests of
several kinds, and compares which objects are shared. It finds the hint. The second judge is the lab: it sends the
prepared requests. It gives the verdict and the faults. A run shows only one order of its events. So a third judge
may be passed in. It gets each run, and looks at all other orders of the run's events.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

from repro.lab.evidence.verdict import Outcome
from repro.lab.lifted import Run, make_request, run
from repro.lab.lifted.request import arrays, checksums
from repro.lab.limits import Interrupted, within
from repro.lab.upstream.plugs import Prepare
from repro.lab.upstream.standin_data import MultimodalDataItem, MultimodalInputs, TokenizedGenerateReqInput

CASES: dict[str, Callable[[], TokenizedGenerateReqInput]] = {
    "one image": lambda: make_request(),
    "two images": lambda: make_request(items=2),
    "a list of tensors": lambda: make_request("list"),
    "a numpy array": lambda: make_request("numpy"),
    "text only": lambda: make_request("text"),
}
LIMIT = 10.0  # seconds for an attempt to prepare two requests, and again as many for its run in the lab
FIELDS = ("rid", "input_ids", "sampling_params", "stream", "checksums")

NOT_RETURNED = "prepare returned None: `return` the request at the end, also for a request without an image."
UNTOUCHED = (
    "The request came back as it was, so every copy still shares one mm_inputs, and with it one item. "
    "Give the request a copy of mm_inputs, and go on from there."
)
COPIED_AGAIN = (
    "The request was copied once more, but upstream has copied it already. The copies still share something: "
    "the copy's mm_inputs is the source's. Copy mm_inputs, and what it leads to."
)
SHARED_MM_INPUTS = (
    "The items are new, but the new list went into the mm_inputs that all copies share: the next send starts from it. "
    "Copy mm_inputs first, then give the copy its list."
)
SHARED_LIST = (
    "The items are new, but they were put into the list that all copies share. Build a new list, "
    "and put it into a copy of mm_inputs."
)
ONLY_MM_INPUTS = (
    "mm_inputs is a copy now, but a shallow one: its mm_items is still the source's list. One level more: "
    "a new list, with a copy of each item."
)
SAME_ITEMS = (
    "The list is new, but the items in it are the source's, and wrapping replaces the feature in the item. "
    "Copy each item, too."
)
REMEMBERED = (
    "Two calls gave the same items: what was made for one send went out with another. "
    "Make new copies for every call, and keep none."
)
DROPPED = (
    "No crash, but the image is gone: the request is sent without (all of) its features, and the model would answer "
    "blindly. Copy the items; leave none out."
)
MUTATED = (
    "prepare changed the source: it wrote to an item that all copies share, or to the pixels in it. "
    "Copy the item first, and write to the copy only."
)
DAMAGED = (
    "Every send owns its items, but the bytes that arrive are not the source's. Do not change features, "
    "their number, or their order."
)
UNPROVEN = (
    "Nothing went wrong, but shared memory was not used: the features went inline, in the message, so this run proves "
    "nothing. Keep the tensors as they are; wrapping puts them into shared memory."
)
CONVERTED = (
    "A feature came back as another kind of object, such as a list in the place of a tensor. The lab would send it, "
    "but the model needs the original kind. Copy the item, and leave the feature as it is."
)
OTHER_ORDER = (
    "In this run everybody was served. In another order of the same calls they are not: the order below leads there. "
    "Read its last line first, and ask what had to be true for it."
)
UNEXPLAINED = "The copies share nothing that they should not share, and yet the lab found faults: read these faults."
RIGHT = "Every send owns its mm_inputs, its list and its items; the pixels are still shared until they are wrapped."


class Judgement(Protocol):
    """What a third judge says of a run. `right` says whether every order of its events is right, and `verdict` says
    what is wrong. `lanes` is the shortest wrong order as text, and `as_svg` gives this order as a picture."""

    right: bool
    verdict: str
    lanes: str

    def as_svg(self) -> str: ...


Judge = Callable[[Run], Judgement | None]


@dataclass(frozen=True, repr=False)
class Grade:
    """The result of an attempt. `case` is the first kind of request with something wrong, and `verdict` and `faults`
    are the lab's result for it. The verdict is `unknown` if the request has tensors and the run made no name: then the
    run proves nothing. `copied` is the price: the bytes of tensor storage that prepare copied for each send of one
    image. `shared` says whether the storage is still the source's, as with a good fix. `orders` is what a third judge
    says of this case. It is None if there was no third judge, or if that judge had nothing to say. (In a notebook,
    `SVG(grade.orders.as_svg())` draws the shortest wrong order.)"""

    passed: bool
    case: str
    verdict: Outcome | Literal["unknown"]
    hint: str
    faults: list[str]
    copied: int
    orders: Judgement | None = None

    @property
    def shared(self) -> bool:
        """Whether no tensor storage was copied."""
        return self.copied == 0

    def __str__(self) -> str:
        lines = [f"{'passed' if self.passed else 'not yet'}: {self.case}, {self.verdict}"]
        lines += [f"  fault  {fault}" for fault in self.faults]
        if self.passed:
            lines.append(f"  price  {self.copied:,} bytes of tensor storage copied for each send")
        lines.append(f"  hint   {self.hint}")
        if self.orders:
            lines.append(f"  orders {self.orders.verdict}")
            lines += [f"    {line}" for line in self.orders.lanes.splitlines()]
        return "\n".join(lines)

    __repr__ = __str__


def grade(prepare: Prepare, *, n: int = 3, limit: float = LIMIT, judge: Judge | None = None) -> Grade:
    """Try `prepare` on every kind of request in CASES, with n samples each. Returns the first failure with its hint, or
    a pass with its price. An exception in `prepare` leads to a hint, too, and so does a wrong kind of result. The
    verdict on an attempt that does not end within `limit` seconds is `hung`. `judge` is a third judge, which must find
    nothing wrong with each run, too. Raises ValueError if n < 2, because then no request is copied."""
    if n < 2:
        raise ValueError(f"n = {n}: a request is copied from n = 2 on")
    price: list[int] = []
    first: Judgement | None = None
    for case, make in CASES.items():
        try:
            hint, copied = within(limit, partial(_look, prepare, make(), case))
        except TimeoutError:
            return Grade(False, case, "hung", _hung(limit, case), [], 0)
        price.append(copied)
        result = run(make(), n=n, fix=prepare, timeout=limit)
        faults, orders = result.faults(), judge(result) if judge else None
        if hint or faults:
            return Grade(False, case, result.verdict.outcome, hint or UNEXPLAINED, faults, copied, orders)
        if orders and not orders.right:
            return Grade(False, case, result.verdict.outcome, OTHER_ORDER, faults, copied, orders)
        if not result.names and _has_tensors(make()):
            return Grade(False, case, "unknown", UNPROVEN, [], copied, orders)
        first = first or orders
    return Grade(True, f"all {len(CASES)} kinds of requests", "survived", _priced(price[0]), [], price[0], first)


def _has_tensors(request: TokenizedGenerateReqInput) -> bool:
    """Whether the request has a tensor, which sglang would wrap."""
    return any(hasattr(array, "data_ptr") for array in arrays(request))


def _priced(copied: int) -> str:
    if not copied:
        return RIGHT
    return (
        f"Right, but costly: each send copies {copied:,} bytes of pixels that nobody changes, and wrapping copies them "
        "into a segment anyway. Own the item, share the tensor."
    )


def _look(prepare: Prepare, source: TokenizedGenerateReqInput, case: str) -> tuple[str, int]:
    """The hint for what `prepare` does to two copies of `source` ("" if nothing is wrong), and the number of bytes that
    it copied for one of them."""
    held = _Held(source)
    sent = []
    for _ in range(2):
        given = copy.copy(source)
        try:
            sent.append(prepare(given))
        except Interrupted:
            raise
        except BaseException as error:  # SystemExit, too: it would end the notebook's kernel
            return _raised(error, case), 0
        if hint := _hint(held, given, sent[-1]):
            return hint, 0
    one, other = sent
    if {id(item) for item in one.items()} & {id(item) for item in other.items()}:
        return REMEMBERED, 0
    known = {place for place, _ in _storages(source)}
    return "", sum({place: size for place, size in _storages(one) if place not in known}.values())


def _hung(limit: float, case: str) -> str:
    return f"prepare did not end within {limit:g} s. The request: {case}. Look for a loop or a wait that has no end."


def _raised(error: BaseException, case: str) -> str:
    said = f"prepare raised {type(error).__name__}: {error}. The request: {case}."
    if case == "text only":
        return f"{said} Its mm_inputs is None: return such a request as it is."
    if case in ("a list of tensors", "a numpy array"):
        return f"{said} A feature is not always one tensor: copy the item that holds it, and leave the feature alone."
    return f"{said} Read the error, and find the line of your function that led to it."


class _Held:
    """What a source request held before `prepare` was called."""

    def __init__(self, source: TokenizedGenerateReqInput) -> None:
        self.source = source
        self.mm_inputs = source.mm_inputs
        self.list = source.mm_inputs.mm_items if source.mm_inputs else []
        self.items = list(self.list)
        self.values = [_values(item) for item in self.items]
        self.fields = {field: copy.deepcopy(getattr(source, field)) for field in FIELDS}

    def is_mutated(self) -> bool:
        """Whether one of the source's own items now holds another object than before, or other bytes."""
        now = (value for item in self.items for value in _values(item))
        before = (value for values in self.values for value in values)
        if any(one is not other for one, other in zip(now, before, strict=True)):
            return True
        kept = TokenizedGenerateReqInput("kept", type(self.mm_inputs)(self.items)) if self.mm_inputs else self.source
        return checksums(kept) != self.fields["checksums"]


def _hint(held: _Held, given: TokenizedGenerateReqInput, got: Any) -> str:
    """The hint for `got`, which `prepare` returned for `given`, a copy of the source; "" if nothing is wrong."""
    if got is None:
        return NOT_RETURNED
    if not isinstance(got, TokenizedGenerateReqInput):
        return f"prepare returned a {type(got).__name__}: it takes a request, and has to return a request."
    if nonsense := _nonsense(got):
        return f"prepare returned a request whose {nonsense}: copy the objects, and keep their kinds."
    if held.mm_inputs is not None and (hint := _hint_about_items(held, given, got)):
        return hint
    changed = [field for field in FIELDS if getattr(got, field) != held.fields[field]]
    if changed:
        return f"prepare changed the request's {', '.join(changed)}: it may change mm_inputs and its items only."
    return ""


def _nonsense(got: TokenizedGenerateReqInput) -> str:
    """Which part of the request is of a wrong kind, as words for a hint; "" if none is."""
    if got.mm_inputs is None:
        return ""
    if not isinstance(got.mm_inputs, MultimodalInputs):
        return f"mm_inputs is a {type(got.mm_inputs).__name__}"
    if not isinstance(got.mm_inputs.mm_items, list):
        return f"mm_items is a {type(got.mm_inputs.mm_items).__name__}"
    wrong = [item for item in got.mm_inputs.mm_items if not isinstance(item, MultimodalDataItem)]
    if wrong:
        return f"mm_items hold a {type(wrong[0]).__name__}"
    wrong = [array for array in arrays(got) if not hasattr(array, "data_ptr") and not hasattr(array, "ctypes")]
    return f"feature is a {type(wrong[0]).__name__}" if wrong else ""


def _hint_about_items(held: _Held, given: TokenizedGenerateReqInput, got: TokenizedGenerateReqInput) -> str:
    if held.is_mutated():
        return MUTATED
    if got.mm_inputs is None or len(list(arrays(got))) < len(held.fields["checksums"]):
        return DROPPED
    items = got.items()
    own = {id(item) for item in items}.isdisjoint(map(id, held.items))
    if items is held.list and own:
        return SHARED_LIST
    if got.mm_inputs is held.mm_inputs:
        if items is not held.list:
            return SHARED_MM_INPUTS
        return UNTOUCHED if got is given else COPIED_AGAIN
    if items is held.list:
        return ONLY_MM_INPUTS
    if not own:
        return _same_items(held, items)
    if [_kind(item) for item in items] != [_kind(item) for item in held.items]:
        return CONVERTED
    return DAMAGED if checksums(got) != held.fields["checksums"] else ""


def _same_items(held: _Held, items: list[MultimodalDataItem]) -> str:
    shared = [number for number, item in enumerate(items, start=1) if any(item is other for other in held.items)]
    if len(shared) == len(items):
        return SAME_ITEMS
    return f"Of {len(items)} items, number {', '.join(map(str, shared))} is still the source's. Copy every item."


def _kind(item: MultimodalDataItem) -> list[bool]:
    """For each of an item's values, whether it is a list or a tuple. (A tensor that has become a numpy array is found
    later: then the run makes no name.)"""
    return [isinstance(value, (list, tuple)) for value in _values(item)]


def _values(item: MultimodalDataItem) -> tuple[Any, Any]:
    return item.feature, item.precomputed_embeddings


def _storages(request: TokenizedGenerateReqInput) -> Iterator[tuple[int, int]]:
    """For each array of a request, the address of its bytes and their number."""
    import torch

    for array in arrays(request):
        storage = torch.as_tensor(array).untyped_storage()
        yield storage.data_ptr(), storage.nbytes()
