"""The training process: `python -m client.worker_main FD`. It alone imports torch and reads the data.

It talks to the agent over the inherited socket FD, one request at a time, and ends when the agent does. It has no
network use, draws its own randomness per attempt, and answers an error with its code and text, never with data.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.framing import Array, Closed, receive, send
from client.training.keystream import Keystream
from client.work import RoundSpec, Trained, WorkSpec
from compliance.errors import EnvironmentFault, InternalBug, ResidencyError
from compliance.validation import load_model

if TYPE_CHECKING:
    from client.training.dpsgd import Engine


class Worker:
    """Holds the prepared study between requests."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    def answer(self, header: dict[str, Any], array: Array) -> tuple[dict[str, Any], Array | None]:
        """The reply to one request. Raises ResidencyError."""
        if header.get("do") == "prepare":
            return self._prepare(load_model(WorkSpec, header.get("spec"), "RSD-4502", "a worker request")), None
        if header.get("do") == "train":
            return self._train(load_model(RoundSpec, header.get("spec"), "RSD-4502", "a worker request"), array)
        raise InternalBug("RSD-4511", "the worker got a request that it does not know", found=header.get("do"))

    def _prepare(self, spec: WorkSpec) -> dict[str, Any]:
        from client.training.session import prepare  # noqa: PLC0415 - torch is slow to import: not before it is needed

        self._engine = None
        self._engine, prepared = prepare(spec)
        return prepared.model_dump(mode="json")

    def _train(self, spec: RoundSpec, start: Array) -> tuple[dict[str, Any], Array]:

        if self._engine is None:
            raise InternalBug("RSD-4512", "the worker was told to train before it was told what")
        stream = Keystream.fresh()
        out = self._engine.train(spec, start, stream)
        reply = Trained(
            conformance=out.conformance,
            tv_error_femto=out.tv_error_femto,
            stream=stream.mark,
            non_finite=out.non_finite,
        )
        return reply.model_dump(mode="json"), out.delta


def _reply(worker: Worker, header: dict[str, Any], array: Array) -> tuple[dict[str, Any], Array | None]:
    try:
        answer, out = worker.answer(header, array)
    except ResidencyError as e:
        return {"ok": False, "exit_code": e.exit_code, "error": e.as_json()}, None
    except MemoryError:
        fault = EnvironmentFault(
            "RSD-4513", "the worker ran out of memory", rule="a known out-of-memory fails the round",
            next="lower training.physical_batch in the study, or give the worker more memory",
        )  # fmt: skip
        return {"ok": False, "exit_code": fault.exit_code, "error": fault.as_json()}, None
    except Exception as e:  # noqa: BLE001 - the boundary: text and traceback may hold data, so only the type goes on
        bug = InternalBug(
            "RSD-4514", "the worker met an unexpected error", found=_kind(e), next="report it with the code and version"
        )
        return {"ok": False, "exit_code": bug.exit_code, "error": bug.as_json()}, None
    return {"ok": True, "answer": answer}, out


def _kind(error: BaseException) -> str:
    """The error's type and the last line of our own code that it passed through: no text, no values."""
    where, trace = "", error.__traceback__
    while trace:
        code = trace.tb_frame.f_code
        if f"{Path(__file__).parent.name}/" in code.co_filename and "site-packages/" not in code.co_filename:
            where = f" in {Path(code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return type(error).__name__ + where


def main(fd: int) -> None:
    """Serve requests from the socket `fd` until the agent closes it."""
    worker = Worker()
    with socket.socket(fileno=fd) as sock:
        try:
            while True:
                send(sock, *_reply(worker, *receive(sock)))
        except Closed:
            return


if __name__ == "__main__":
    main(int(sys.argv[1]))
