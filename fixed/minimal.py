#!/usr/bin/env python
# fmt: off
"""One image, n = 2, and sglang 0.5.12.post1 answers. Blank lines are single, to fit on one screen. Linux, macOS.
Bytes stand for pixels, a pool of one process stands for the scheduler. Fix: `diff repro/minimal.py fixed/minimal.py`"""
import copy
import pickle
from multiprocessing import get_context, shared_memory
from types import SimpleNamespace

PIXELS, EVENTS = b"crimson", []  # events: (role, what, name), what this process did to names in shared memory

class ShmPointerMMData:  # what is pickled in the place of a feature: the name of a segment that holds it
    def __init__(self, feature):
        self.shm = shared_memory.SharedMemory(create=True, size=len(feature))
        self.shm.buf[: len(feature)] = feature
        EVENTS.append(("tokenizer", "create", self.shm.name))

    def __getstate__(self):
        return self.shm.name

    def __setstate__(self, name):
        self.shm = shared_memory.SharedMemory(name)
        EVENTS.append(("scheduler", "open", name))

    def materialize(self):
        feature = bytes(self.shm.buf).rstrip(b"\0")  # a clone; macOS rounds segments up to whole pages
        self.shm.unlink()  # wrong if another request has this name, too: all requests that share the item send it
        EVENTS.append(("scheduler", "unlink", self.shm.name))
        return feature

def wrap_shm_features(request):
    for item in request.mm_inputs.mm_items:
        if isinstance(item.feature, bytes):  # a pointer is not wrapped again, even if its name is gone
            item.feature = ShmPointerMMData(item.feature)  # in place: all requests that share the item get the pointer

def _handle_batch_request(request):  # yields each request to send; resumes when its answer has come: no race
    warm_up = copy.copy(request)  # expansion point 1, hidden. A shallow copy shares mm_inputs, and so the item
    warm_up.mm_inputs = SimpleNamespace(mm_items=[copy.copy(item) for item in request.mm_inputs.mm_items])
    yield warm_up
    for _ in range(request.parallel_sample_num):
        sample = copy.copy(request)  # expansion point 2, shallow again
        sample.mm_inputs = SimpleNamespace(mm_items=[copy.copy(item) for item in request.mm_inputs.mm_items])
        yield sample

def scheduler(message):  # in the other process
    EVENTS.clear()
    [item] = pickle.loads(message).mm_inputs.mm_items  # opens the name; nothing here catches an error of this open
    return EVENTS if item.feature.materialize() == PIXELS else []  # only the right pixels count as an answer

def run(n=2):  # n > 1, because n = 1 takes another branch; returns [(role, what, "name 1"), ...]
    EVENTS.clear()
    mm_inputs = SimpleNamespace(mm_items=[SimpleNamespace(feature=PIXELS)])
    with get_context("spawn").Pool(1) as pool:
        try:
            for sent in _handle_batch_request(SimpleNamespace(mm_inputs=mm_inputs, parallel_sample_num=n)):
                wrap_shm_features(sent)
                EVENTS.extend(pool.apply_async(scheduler, [pickle.dumps(sent)]).get(timeout=10))
        except FileNotFoundError as error:  # the end: the scheduler dies of this error, and the server with it
            EVENTS.append(("scheduler", "open failed", error.filename.lstrip("/")))
    names = list(dict.fromkeys(name for *_, name in EVENTS))
    return [(role, what, f"name {names.index(name) + 1}") for role, what, name in EVENTS]

def main():
    events = run()
    for step in ("tokenizer create", "scheduler open", "scheduler unlink", "scheduler open failed"):
        print(f"{step:21} ", ", ".join(name for role, what, name in events if step == f"{role} {what}") or "nothing")
    return 0 if [what for _, what, _ in events] == ["create", "open", "unlink"] * 3 else 1

if __name__ == "__main__":
    raise SystemExit(main())
