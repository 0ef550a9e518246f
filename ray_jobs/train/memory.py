"""How much memory a training takes, told before it starts, and what to change when it does not fit.

State is counted from the model's shape and DeepSpeed's way of keeping it (ZeRO, https://arxiv.org/abs/1910.02054, and
the source of the version that is pinned); activations by what autograd would keep (see `shape.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import psutil
import torch

from ray_jobs.train.distributed import CPU_BUCKET, computes_in
from ray_jobs.train.remedies import remedies
from ray_jobs.train.shape import ModelShape
from stillhouse.errors import UserError
from stillhouse.recipe import Lora, Offload, Student

_FLOAT32 = 4
_NF4 = 0.516
"""Bytes a weight in nf4 takes with its scales, which are quantized again (https://arxiv.org/abs/2305.14314)."""

_MOMENTS = 8
"""Bytes that AdamW keeps for each weight."""

_BUCKET = 500_000_000
"""Gradients that DeepSpeed exchanges at once where its settings do not say less; room for them is taken as a whole."""

_LIVE = 1_000_000_000
"""Weights that ZeRO-3 keeps whole at once at most."""

_HEAD_CHUNK = 256 * 2**20
_HEAD_COPIES = 3
"""Tensors of a chunk's logits at a time: the logits, their exponentials, and what a matrix product works with."""

_DENSE_COPIES = 5
"""The same without chunks, where autograd keeps some."""

_CPU_OVERHEAD = 900 * 2**20
_GPU_OVERHEAD = 1200 * 2**20
_ROOM = 1.05
"""Times the GPU's estimate: its allocator leaves gaps."""

_CPU_GAPS = 1.35
"""Times the activations on a CPU, where freed memory is kept and not always fits what comes next; measured."""

_MOST_NAMED = 3
"""Ways out that an error names."""


@dataclass(frozen=True)
class Memory:
    """What a worker may take, in bytes.

    Attributes:
        device: of the GPU's memory; of the machine's on a CPU.
        host: of the machine's memory.
    """

    device: int
    host: int


@dataclass(frozen=True)
class Estimate:
    """What one worker takes at its peak, in bytes.

    Attributes:
        weights: the model's, and what ZeRO-3 gathers of them; on a CPU also what loading them takes beyond all else.
        gradients: and the buckets that they are exchanged in.
        optimizer: master weights and AdamW's two moments.
        activations: what the backward pass needs, and what a layer works with.
        head: the loss and its gradients, over the vocabulary.
        overhead: the process itself: libraries, CUDA's context, gaps.
        host: in the machine's memory beside a GPU's: the process, what is offloaded, and the weights on their way.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    overhead: int
    host: int

    @property
    def device(self) -> int:
        """All but the host's."""
        return sum(getattr(self, name) for name in _PARTS)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {_size(getattr(self, name))}" for name in _PARTS)
        return f"{_size(self.device)} ({parts})"


_PARTS = tuple(field.name for field in fields(Estimate) if field.name != "host")


def available_memory(device: str, workers_here: int) -> Memory:
    """What each of the workers on this machine may take now; of GPUs each worker has its own."""
    left = [psutil.virtual_memory().available, *_cgroup_left()]
    host = min(left) // workers_here
    return Memory(device=host if device == "cpu" else torch.cuda.mem_get_info()[0], host=host)


def estimate(shape: ModelShape, student: Student, *, workers: int, k: int, completion: int | None = None) -> Estimate:
    """What a worker takes at its peak.

    Args:
        shape: of the student's model, at the longest record's length.
        workers: of the whole training.
        k: entries of the teacher's distribution at each token; 0 without.
        completion: tokens of the longest completion, which carry loss. Default: the record's length.
    """
    bytes_each = 2 if computes_in(student) == torch.bfloat16 else _FLOAT32
    adapters = 0 if student.lora is None else adapter_parameters(shape, student.lora)
    trained = adapters or shape.parameters
    share = trained / (workers if student.zero_stage else 1)
    # Float32 weights are their own masters without ZeRO, and under ZeRO-3 (see `distributed.py`).
    masters = bytes_each == 2 or student.zero_stage in (1, 2) or student.offload != Offload()
    parts = {
        "weights": _weights(shape, student, adapters, bytes_each, workers),
        "gradients": _gradients(shape, student, trained, bytes_each, workers),
        "optimizer": share * (_MOMENTS + _FLOAT32 * masters),
        "activations": _activations(shape, student),
        "head": _head(shape, student, min(completion or shape.length, shape.length) * student.micro_batch_size, k),
    }
    quantized = student.lora is not None and student.lora.quantize is not None
    loading = 0 if quantized else _FLOAT32 * shape.loaded  # every worker loads them, whole and in float32
    if student.device == "cpu":
        parts["weights"] += max(0.0, loading - sum(parts.values()))
        return _rounded({**parts, "overhead": _CPU_OVERHEAD, "host": 0})
    host = 0.0
    if student.offload.optimizer:
        host += parts["optimizer"] + _FLOAT32 * share  # the gradients that the CPU's step takes
        parts["optimizer"] = 0
    if student.offload.parameters:
        host += bytes_each * (shape.parameters + adapters) / workers
        parts["weights"] -= bytes_each * (shape.parameters + adapters) / workers
    parts = {name: size * _ROOM for name, size in parts.items()}
    return _rounded({**parts, "overhead": _GPU_OVERHEAD, "host": _CPU_OVERHEAD + max(host, loading)})


def require_fits(
    shape: ModelShape,
    student: Student,
    available: Memory,
    *,
    workers: int,
    k: int,
    completion: int | None = None,
) -> Estimate:
    """The estimate, if there is so much memory.

    Raises:
        UserError: there is not; with the settings that would fit by the same estimate, the most harmless first.
    """

    def of(changed: Student) -> Estimate:
        return estimate(shape, changed, workers=workers, k=k, completion=completion)

    def fits(found: Estimate) -> bool:
        return found.device <= available.device and found.host <= available.host

    found = of(student)
    if fits(found):
        return found
    short = f"a worker needs about {found}, and has {_size(available.device)}"
    if found.device <= available.device:
        short = f"a worker needs about {_size(found.host)} of the machine's memory, and has {_size(available.host)}"
    working: dict[str, str] = {}
    for said, changed in remedies(student, workers):
        if fits(size := of(changed)):
            # Of one setting's values the most harmless is enough.
            working.setdefault(said.partition(":")[0], f"{said} ({_size(size.device)})")
    if not working:
        raise UserError(f"{short}: a smaller `student`, more workers or a shorter `student.max_length` might fit")
    raise UserError(f"{short}: it fits with {'; or '.join(list(working.values())[:_MOST_NAMED])}")


def adapter_parameters(shape: ModelShape, lora: Lora) -> int:
    """How many parameters the adapters have."""
    return sum(
        lora.rank * (one.inputs + one.outputs)
        for one in shape.linear
        if not lora.targets or any(one.name == name or one.name.endswith(f".{name}") for name in lora.targets)
    )


def _weights(shape: ModelShape, student: Student, adapters: int, bytes_each: int, workers: int) -> float:
    whole = shape.parameters + adapters
    if student.lora is not None and student.lora.quantize is not None:
        packed = sum(one.inputs * one.outputs for one in shape.linear)
        return _NF4 * packed + bytes_each * (whole - packed)
    if student.zero_stage < 3:
        return bytes_each * whole
    # Gloo gathers them into memory of its own first.
    copies = 2 if student.device == "cpu" else 1
    return bytes_each * (whole / workers + copies * min(whole, _LIVE))


def _gradients(shape: ModelShape, student: Student, trained: int, bytes_each: int, workers: int) -> float:
    """Of the weights that are trained; at a step ZeRO copies a worker's part of them once more, in float32."""
    arriving = bytes_each * (shape.largest if student.lora is None else 0)
    part = _FLOAT32 * trained / workers
    if student.zero_stage == 0:
        # All of them are put end to end to be exchanged.
        return arriving + bytes_each * (trained + (min(trained, _BUCKET) if workers > 1 else 0))
    bucket = bytes_each * (CPU_BUCKET if student.device == "cpu" else 2 * _BUCKET)
    return arriving + bucket + part + (bytes_each * trained if student.zero_stage == 1 else part)


def _activations(shape: ModelShape, student: Student) -> float:
    kept = shape.kept[computes_in(student)]
    records = student.micro_batch_size
    layer = kept.layers / shape.depth
    if student.packing:
        # Every layer keeps a mask of who sees whom, over a row of all records instead of one for each.
        rows = (records * shape.length) ** 2 - records * shape.length**2
        layer += rows * computes_in(student).itemsize / records
    whole = layer * shape.depth + kept.rest
    gaps = _CPU_GAPS if student.device == "cpu" else 1
    if student.gradient_checkpointing:
        inputs = shape.depth * shape.length * shape.hidden * computes_in(student).itemsize
        return gaps * records * (inputs + kept.rest + 2 * layer)
    return gaps * records * (whole + layer)


def _head(shape: ModelShape, student: Student, tokens: int, k: int) -> float:
    targets = tokens * k * 12
    if not student.fused_head:
        # The model's own forward computes logits at every position.
        return targets + _DENSE_COPIES * student.micro_batch_size * shape.length * shape.vocabulary * _FLOAT32
    logits = tokens * shape.vocabulary * _FLOAT32
    gradient = 0 if student.lora is not None else shape.vocabulary * shape.hidden * _FLOAT32
    return targets + _HEAD_COPIES * min(logits, _HEAD_CHUNK) + gradient


def _rounded(parts: dict[str, float]) -> Estimate:
    return Estimate(**{name: round(size) for name, size in parts.items()})


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _cgroup_left(root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """What the container's limit leaves, in bytes, if there is one: version 2 of cgroups, then version 1."""
    for folder, limit, used in (
        (root, "memory.max", "memory.current"),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        if (folder / limit).is_file() and (most := (folder / limit).read_text().strip()).isdigit():
            counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            # Files that are cached there are given up when memory is needed.
            cached = int(counts.get("total_inactive_file", counts.get("inactive_file", 0)))
            yield max(0, int(most) - int((folder / used).read_text()) + cached)
