"""Replaces the linear layers of a model on the CPU by faster ones, in place."""

from __future__ import annotations

import inspect
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch

from palma.core.errors import SettingsError
from palma.engine.continuous.cpu_kernel import DecodeKernel, PanelLinear
from palma.engine.continuous.packed_modules import (
    MAX_INT8_IN_FEATURES,
    Int8Linear,
    OneDnnLinear,
)
from palma.engine.continuous.sibling_linears import (
    SIBLING_NAMES,
    SharedInput,
    SiblingLinear,
    stacked,
)
from palma.models.cpu_features import CpuFeatures, detect_cpu_features
from palma.models.process_memory import trim_heap

WeightFormat = Literal["as_loaded", "int8"]
PackedModule = OneDnnLinear | Int8Linear | PanelLinear
Place = tuple[torch.nn.Module, str]
"""A parent, and the name under which it holds the layer."""

MIN_FLOAT32_WEIGHTS = 400_000
"""Smaller layers in float32 stay plain: oneDNN's call costs some 10 us more than torch's own."""

_MIN_INT8_FEATURES = 64  # smaller layers are cheap, and often decide much
_ROUTER_NAMES = frozenset({"gate", "router", "router_gate", "shared_expert_gate"})
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True, slots=True)
class PackReport:
    """What became of a model's linear layers.

    Attributes:
        num_packed: Layers replaced, the int8 ones included.
        num_joined: How many fewer multiplications they are now: siblings are one.
        num_int8: Multiplications with int8 weights.
        num_left: Layers left as they were.
        left: How many were left for which reason, the commonest first.
        bytes_before: All parameters of the model, as loaded.
        bytes_after: The parameters that remain, and the packed weights. A tied output layer
            adds its own copy; the embedding keeps the table.
        expert_bytes: Of these, the experts of a mixture that lie in one parameter for a whole
            layer: they are no linear layers and stay as they are.
        duration_s: How long it took.
    """

    num_packed: int
    num_joined: int
    num_int8: int
    num_left: int
    left: tuple[tuple[str, int], ...]
    bytes_before: int
    bytes_after: int
    expert_bytes: int
    duration_s: float

    @property
    def summary(self) -> str:
        """One line for the log."""
        parts = [
            f"Packed {self.num_packed} linear layers into {self.num_packed - self.num_joined} "
            f"multiplications ({self.num_int8} of them int8) "
            f"in {self.duration_s:.1f} s: {self.bytes_before / 2**20:,.0f} MiB became "
            f"{self.bytes_after / 2**20:,.0f}"
        ]
        if self.left:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in self.left)
            parts.append(f"{self.num_left} left as they were ({reasons})")
        if self.expert_bytes:
            parts.append(f"{self.expert_bytes / 2**20:,.0f} MiB of fused experts stay as they were")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Packing:
    """How layers are packed on this computer.

    Attributes:
        found: What its processor does well.
        kernel: Multiplies where it can.
        keeps_small: See `pack_linears`.
    """

    found: CpuFeatures
    kernel: DecodeKernel | None
    keeps_small: bool = True

    def pack(self, linear: torch.nn.Linear, *, quantize: bool) -> PackedModule:
        """Return a packed copy of a layer."""
        dtype = torch.int8 if quantize else linear.weight.dtype
        if self.kernel is not None and dtype in self.kernel.linear_dtypes:
            return PanelLinear(linear, self.kernel, quantize=quantize)
        if quantize:
            return Int8Linear(linear, num_levels=127 if self.found.has_exact_int8 else 63)
        return OneDnnLinear(linear)

    def leaves(self, linears: list[torch.nn.Linear]) -> bool:
        """Whether these layers, computed as one, are too small in float32 to be packed."""
        is_float32 = linears[0].weight.dtype == torch.float32
        num_weights = sum(linear.weight.numel() for linear in linears)
        return self.keeps_small and is_float32 and num_weights < MIN_FLOAT32_WEIGHTS


def pack_linears(
    model: torch.nn.Module,
    weights: WeightFormat,
    *,
    join_siblings: bool = False,
    kernel: DecodeKernel | None = None,
    keeps_small: bool = True,
) -> PackReport:
    """Replace the `nn.Linear` modules of a model on the CPU, one by one, for good.

    Each unpacked weight is freed before the next layer is packed, unless somebody else holds it:
    an embedding that is tied to the output layer, or the caller. With "int8" the output layer,
    routers and very small layers keep their precision. Left alone are subclasses of `nn.Linear`,
    layers with hooks, and layers whose weight the model's code reads by itself.

    Args:
        model: In float32 or bfloat16; nobody else uses it meanwhile.
        weights: "as_loaded" keeps the precision, "int8" quantizes weights and activations.
        join_siblings: Whether layers that read the same input are computed as one; then the
            model may be used by one thread only.
        kernel: Multiplies, where it can, in place of oneDNN and FBGEMM.
        keeps_small: Whether small layers in float32 stay plain: each by itself is faster so.

    Raises:
        SettingsError: int8 was asked for, and this processor has no kernel for it.
    """
    found = detect_cpu_features()
    packing = Packing(found, kernel, keeps_small=keeps_small)
    if weights == "int8" and not found.has_int8_linears:
        raise SettingsError("WEIGHTS=int8: on the CPU it needs an x86 processor with AVX2")
    started = time.monotonic()
    bytes_before = _parameter_bytes(model)
    output_layer_id = id(_output_layer(model))
    packed: list[PackedModule] = []
    left: Counter[str] = Counter()
    num_joined = 0
    if join_siblings:
        num_joined = _pack_siblings(model, packing, packed, quantize=weights == "int8")
    for layer_id, places in _linear_places(model).items():
        reason = _reason_to_leave(places, found)
        if reason is not None:
            left[reason] += 1
            continue
        quantize = weights == "int8" and layer_id != output_layer_id
        if not quantize and packing.leaves([_layer_at(places[0])]):
            left["small, in float32"] += 1
            continue
        packed.append(_replace(places, packing, quantize=quantize))
    trim_heap()
    return PackReport(
        num_packed=len(packed) + num_joined,
        num_joined=num_joined,
        num_int8=sum(_is_int8(module) for module in packed),
        num_left=left.total(),
        left=tuple(left.most_common()),
        bytes_before=bytes_before,
        bytes_after=_parameter_bytes(model) + sum(module.num_bytes for module in packed),
        expert_bytes=_fused_expert_bytes(model),
        duration_s=time.monotonic() - started,
    )


def unpack_linears(model: torch.nn.Module) -> None:
    """Put plain layers where packed ones stand, those of the kernel left alone."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if (
                isinstance(child, SiblingLinear)
                and not isinstance(child.shared.together, PanelLinear)
            ) or isinstance(child, OneDnnLinear | Int8Linear):
                parent._modules[name] = child.plain()


def _linear_places(model: torch.nn.Module) -> dict[int, list[Place]]:
    """Return where each linear layer hangs, by its id; the layers themselves are not held."""
    places: defaultdict[int, list[Place]] = defaultdict(list)
    for parent in model.modules():
        for name, child in parent._modules.items():
            if isinstance(child, torch.nn.Linear):
                places[id(child)].append((parent, name))
    return dict(places)


def _siblings(
    model: torch.nn.Module, found: CpuFeatures
) -> Iterator[tuple[torch.nn.Module, tuple[str, ...]]]:
    """Yield the parents whose layers of these names can be packed as one."""
    places_of = _linear_places(model)
    for parent in model.modules():
        for names in SIBLING_NAMES:
            children = [parent._modules.get(name) for name in names]
            linears = [child for child in children if type(child) is torch.nn.Linear]
            if len(linears) < len(names) or any(len(places_of[id(x)]) > 1 for x in linears):
                continue
            kinds = {(linear.in_features, linear.weight.dtype) for linear in linears}
            reasons = (_reason_to_leave([(parent, name)], found) for name in names)
            if len(kinds) == 1 and not any(reasons):
                yield parent, names


def _pack_siblings(
    model: torch.nn.Module, packing: Packing, packed: list[PackedModule], *, quantize: bool
) -> int:
    """Pack siblings as one, add them to `packed`, and return how many fewer layers they are."""
    num_joined = 0
    for parent, names in _siblings(model, packing.found):
        if not quantize and packing.leaves([_layer_at((parent, name)) for name in names]):
            continue
        packed.append(_join(parent, names, packing, quantize=quantize))
        trim_heap()
        num_joined += len(names) - 1
    return num_joined


def _join(
    parent: torch.nn.Module, names: tuple[str, ...], packing: Packing, *, quantize: bool
) -> PackedModule:
    """Pack layers of one parent as one, and hang a part of it where each of them hung."""
    linears = [_layer_at((parent, name)) for name in names]
    suits_int8 = quantize and all(_suits_int8(linear, set(names)) for linear in linears)
    packed = packing.pack(stacked(linears), quantize=suits_int8)
    shared = SharedInput(packed, [linear.out_features for linear in linears])
    for index, name in enumerate(names):
        part = SiblingLinear(shared, index, linears[index])
        parent._modules[name] = part.train(linears[index].training)
    return packed


def _replace(places: list[Place], packing: Packing, *, quantize: bool) -> PackedModule:
    """Pack one layer and hang it wherever the unpacked one hung."""
    linear = _layer_at(places[0])
    names = {name for _, name in places}
    packed = packing.pack(linear, quantize=quantize and _suits_int8(linear, names))
    packed.train(linear.training)
    for parent, name in places:
        parent._modules[name] = packed
    return packed


def _is_int8(module: PackedModule) -> bool:
    return isinstance(module, Int8Linear) or (isinstance(module, PanelLinear) and module.is_int8)


def _suits_int8(linear: torch.nn.Linear, names: set[str]) -> bool:
    smallest, num_inputs = min(linear.weight.shape), linear.in_features
    if smallest < _MIN_INT8_FEATURES or num_inputs > MAX_INT8_IN_FEATURES:
        return False
    return not names & _ROUTER_NAMES


def _reason_to_leave(places: list[Place], found: CpuFeatures) -> str | None:
    linear = _layer_at(places[0])
    if type(linear) is not torch.nn.Linear:
        return f"class {type(linear).__name__}"
    if "forward" in linear.__dict__ or any(getattr(linear, hooks) for hooks in _HOOKS):
        return "has hooks"
    if any(_code_reads_weight(parent, name) for parent, name in places):
        return "the model reads its weight"
    return _tensor_reason(linear, found)


def _tensor_reason(linear: torch.nn.Linear, found: CpuFeatures) -> str | None:
    weight, bias = linear.weight, linear.bias
    if weight.device.type != "cpu":
        return f"on {weight.device.type}"
    if not found.has_onednn:
        return "torch lacks oneDNN"
    takes_it = weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and found.has_onednn_bfloat16
    )
    if not takes_it or (bias is not None and bias.dtype != weight.dtype):
        return str(weight.dtype).removeprefix("torch.")
    return None


def _code_reads_weight(parent: torch.nn.Module, name: str) -> bool:
    """Whether the model's own code says `.<name>.weight`, as Mamba's does of its `dt_proj`.

    A packed layer answers that with an unpacked copy: right, but slow.
    """
    try:
        source = inspect.getsource(sys.modules[type(parent).__module__])
    except (OSError, TypeError):
        return False
    return re.search(rf"\.{re.escape(name)}\.weight\b", source) is not None


def _layer_at(place: Place) -> torch.nn.Linear:
    parent, name = place
    child = parent._modules[name]
    assert isinstance(child, torch.nn.Linear)
    return child


def _output_layer(model: Any) -> torch.nn.Module | None:
    """Return what makes logits, where the model is one of Transformers'."""
    getter = getattr(model, "get_output_embeddings", None)
    found: torch.nn.Module | None = getter() if getter is not None else None
    return found


def _parameter_bytes(model: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


def _fused_expert_bytes(model: torch.nn.Module) -> int:
    """Count experts that lie in one parameter (num_experts, ..., ...): no linear layers."""
    return sum(
        parameter.nbytes
        for name, parameter in model.named_parameters()
        if ".experts." in name and parameter.dim() == 3
    )
