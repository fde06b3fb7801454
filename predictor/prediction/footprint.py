"""What memory a request takes: closed forms and what was learned of memory, without times and what predicts them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from predictor.errors import UnknownLink, UnknownRate
from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import Gpu
from predictor.latency import static_batch, training
from predictor.memory.capacity import alone_note
from predictor.memory.closed_form import Memory, memory, start_note
from predictor.memory.host import host_note
from predictor.memory.training import TrainingMemory, training_memory
from predictor.prediction.single import Resolved, load_of
from predictor.workloads.request import Request
from predictor.workloads.requested import kept_setting, served_workload, training_setting, unread_note


@dataclass(frozen=True, slots=True)
class Footprint:
    """The memory of a request on each of its GPUs, as the Report or TrainingReport of its answer has it."""

    request: Request
    model: str
    gpu: Gpu
    n_gpus: int
    memory: Memory | TrainingMemory
    notes: tuple[str, ...]

    @property
    def mode(self) -> str:
        """ "inference", or how it is trained."""
        return self.request.method if self.request.phase == "train" else "inference"

    def row(self) -> dict[str, Any]:
        """One flat row; bytes are per GPU."""
        row = {"model": self.model, "gpu": self.gpu.name, "n_gpus": self.n_gpus, "notes": list(self.notes)}
        row |= {"mode": self.mode} | self.memory.row()
        return row | ({"peak_phase": self.memory.peak_phase} if isinstance(self.memory, TrainingMemory) else {})


def footprint(resolved: Resolved, bundle: Bundle) -> Footprint:
    """The memory of a request; raises what `answer` would, and needs no booster of the bundle.

    bundle: whose measurements the notes are about.
    """
    return (_training if resolved.request.phase == "train" else _serving)(resolved, bundle)


def _serving(resolved: Resolved, bundle: Bundle) -> Footprint:
    request, _, gpu, notes, *_ = resolved
    workload, note = served_workload(request, resolved.model, gpu)
    doubts = _unless_unknown(static_batch.doubts, workload, gpu, bundle)
    if request.scheduling == "continuous":
        from predictor.latency.serving.load import room_for, served_by

        room_for(workload, gpu, load_of(resolved), served_by(workload, gpu))
    need, n_gpus = memory(workload, gpu), workload.layout.n_gpus
    notes = (
        *notes,
        *(text for text in (note, start_note(workload, gpu, need), alone_note(need, gpu, n_gpus)) if text),
        *doubts,
    )
    return Footprint(request, workload.model.name, gpu, n_gpus, need, notes)


def _training(resolved: Resolved, bundle: Bundle) -> Footprint:
    request, model, gpu, notes, *_ = resolved
    setting = training_setting(request, model)
    doubts = _unless_unknown(training.doubts, model, gpu, setting, bundle)
    need = training_memory(model, gpu, kept_setting(request, setting))
    alone = alone_note(need, gpu, setting.n_gpus)
    told = [note for note in (unread_note(request, model), host_note(need.host_held_bytes), alone) if note]
    return Footprint(request, model.name, gpu, setting.n_gpus, need, (*notes, *told, *doubts))


def _unless_unknown(doubts: Callable[..., list[str]], *asked_of: Any) -> list[str]:
    """What there is to say of the times, which memory does not need: a rate that nobody knows is said and no error."""
    try:
        return doubts(*asked_of)
    except (UnknownRate, UnknownLink) as error:
        return [f"of the memory only: {error}"]
