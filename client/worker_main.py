"""What a task does: prepare a study, train one attempt, or evaluate. It alone imports torch and reads the data.

A task is a process of its own (client/zygote.py) with one request and one answer. It draws its own randomness, and
answers an error with its code and text, never with data.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from client.framing import Array
from client.stop_file import StopFile
from client.training.keystream import Keystream
from client.work import Evaluated, EvaluationSpec, RoundSpec, Trained, WorkSpec
from compliance.errors import EnvironmentFault, InternalBug, ResidencyError
from compliance.validation import load_model

Answer = tuple[dict[str, Any], Array | None]
_NO_MEMORY: Final = ("OutOfMemoryError",)  # torch's, by name: this module loads without torch
_ALLOCATORS: Final = ("can't allocate memory", "not enough memory", "out of memory")


def answer(header: dict[str, Any], array: Array) -> Answer:
    """The answer to one request. Raises ResidencyError."""
    if header.get("do") == "prepare":
        return _prepare(_work(header)), None
    if header.get("do") == "train":
        spec = load_model(RoundSpec, header.get("spec"), "RSD-4502", "a worker request")
        return _train(_work(header), spec, array)
    if header.get("do") == "evaluate":
        wanted = load_model(EvaluationSpec, header.get("spec"), "RSD-4502", "a worker request")
        return _evaluate(_work(header), wanted, array), None
    raise InternalBug("RSD-4511", "the worker got a request that it does not know", found=header.get("do"))


def _work(header: dict[str, Any]) -> WorkSpec:
    return load_model(WorkSpec, header.get("work"), "RSD-4502", "a worker request")


def _prepare(work: WorkSpec) -> dict[str, Any]:
    from client.training.session import prepare  # noqa: PLC0415 - torch is slow to import: not before it is needed

    return prepare(work).model_dump(mode="json")


def _train(work: WorkSpec, spec: RoundSpec, start: Array) -> Answer:
    from client.training.session import resume  # noqa: PLC0415 - as above

    stop = StopFile(work.stop_file, work.stop_mark)
    stop.check()  # before anything is read: what was prepared may be gone because a subject was withdrawn
    out = resume(work).train(spec, start, Keystream.fresh(), stop.check)
    reply = Trained(
        conformance=out.conformance, tv_error_femto=out.tv_error_femto, marks=out.marks, non_finite=out.non_finite
    )
    return reply.model_dump(mode="json"), out.delta


def _evaluate(work: WorkSpec, spec: EvaluationSpec, flat: Array) -> dict[str, Any]:
    from client.training.evaluation import count  # noqa: PLC0415 - as above
    from client.training.session import held  # noqa: PLC0415

    stop = StopFile(work.stop_file, work.stop_mark)
    stop.check()
    top, examples = held(work)
    out = count(top, examples, spec, flat, Keystream.fresh(), stop.check)
    cells = tuple(int(cell) for cell in out.cells)
    return Evaluated(cells=cells, conformance=out.conformance, marks=out.marks).model_dump(mode="json")


def reply(work: Callable[[], Answer]) -> Answer:
    """What `work` returns, as a reply; an error as its code and text, an unexpected one by its type only."""
    try:
        answered, out = work()
    except ResidencyError as e:
        return _failed(e)
    except Exception as e:  # noqa: BLE001 - the boundary: text and traceback may hold data, so only the type goes on
        if _is_memory(e):
            return _failed(no_memory("an allocation failed"))
        bug = InternalBug(
            "RSD-4514", "the worker met an unexpected error", found=_kind(e), next="report it with the code and version"
        )
        return _failed(bug)
    return {"ok": True, "answer": answered}, out


def no_memory(found: str) -> EnvironmentFault:
    """A known out-of-memory: the round is over at this site (RSD-4513)."""
    return EnvironmentFault(
        "RSD-4513", "the worker ran out of memory", rule="a known out-of-memory fails the round", found=found,
        limit="the task's memory", next="lower training.physical_batch in the study, or give the worker more memory",
    )  # fmt: skip


def _is_memory(error: Exception) -> bool:
    """torch's allocators raise MemoryError, a class of their own, or RuntimeError with these words."""
    if isinstance(error, MemoryError) or type(error).__name__ in _NO_MEMORY:
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _ALLOCATORS)


def _failed(error: ResidencyError) -> Answer:
    return {"ok": False, "exit_code": error.exit_code, "error": error.as_json()}, None


def _kind(error: BaseException) -> str:
    """The error's type and the last line of our own code that it passed through: no text, no values."""
    where, trace = "", error.__traceback__
    while trace:
        code = trace.tb_frame.f_code
        if f"{Path(__file__).parent.name}/" in code.co_filename and "site-packages/" not in code.co_filename:
            where = f" in {Path(code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return type(error).__name__ + where
