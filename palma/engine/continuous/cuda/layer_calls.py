"""How a compiled graph is called in a layer's place: where each of its inputs comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Graph = Callable[..., Sequence[torch.Tensor]]
"""Maps the flat inputs of a compiled graph to its outputs."""

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""What a layer is called with: positional arguments, and those with names."""

CONSTANTS = (type(None), bool)
"""Kinds of other arguments, each value of which is one object."""


class CannotCompile(Exception):
    """These layers cannot be computed by compiled graphs; the message says why."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One value that a layer is called with.

    Attributes:
        key: Its position or its name.
        item: Which one of the tuple that is there; None for the value itself.
    """

    key: int | str
    item: int | None = None

    def of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Find it in a call."""
        value = args[self.key] if isinstance(self.key, int) else kwargs[self.key]
        return value if self.item is None else value[self.item]


@dataclass(frozen=True, slots=True)
class Attribute:
    """A tensor that hangs on a module of the layer: the module's path and the tensor's name."""

    path: str
    name: str

    def of(self, layer: torch.nn.Module) -> torch.Tensor:
        """Find it in a layer."""
        tensor: torch.Tensor = getattr(layer.get_submodule(self.path), self.name)
        return tensor


@dataclass(frozen=True, slots=True)
class Size:
    """One dimension of another input."""

    source: Argument | Attribute
    dim: int


Source = Argument | Attribute | Size


@dataclass(frozen=True, slots=True)
class Form:
    """What the arguments of a layer look like.

    Attributes:
        num_args: How many positional ones there are.
        names: Of the others.
        constants: Those that are no tensors.
        hidden: The first tensor: (1, num_tokens, hidden_size).
    """

    num_args: int
    names: frozenset[str]
    constants: tuple[tuple[Argument, Any], ...]
    hidden: Argument

    def num_tokens(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
        """Return the number of tokens of a call, or None of one that does not look so."""
        if len(args) != self.num_args or kwargs.keys() != self.names:
            return None
        for argument, value in self.constants:
            if argument.of(args, kwargs) is not value:
                return None
        shape = self.hidden.of(args, kwargs).shape
        return int(shape[1]) if len(shape) == 3 and shape[0] == 1 else None


@dataclass(frozen=True, slots=True)
class LayerCall:
    """A graph, and how to call it in a layer's place.

    Attributes:
        graph: Shared with all layers of the kind.
        sources: Of the graph's inputs, in order.
        result: Which output of the graph the layer returns, or a tuple of such; None is None.
        form: Of the calls that the graph is right for.
    """

    graph: Graph
    sources: tuple[Source, ...]
    result: int | tuple[int | None, ...]
    form: Form

    def bind(self, layer: torch.nn.Module) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
        """Look up what hangs on a layer; return what computes it for (args, kwargs)."""
        fixed = [self._fixed(source, layer) for source in self.sources]
        given = [(i, x) for i, x in enumerate(self.sources) if isinstance(x, Argument)]
        sizes = [
            (i, x.source, x.dim)
            for i, x in enumerate(self.sources)
            if isinstance(x, Size) and isinstance(x.source, Argument)
        ]
        graph, result = self.graph, self.result

        def compute(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            flat = fixed.copy()
            for slot, argument in given:
                flat[slot] = argument.of(args, kwargs)
            for slot, argument, dim in sizes:
                flat[slot] = argument.of(args, kwargs).shape[dim]
            outputs = graph(*flat)
            if isinstance(result, int):
                return outputs[result]
            return tuple(None if index is None else outputs[index] for index in result)

        return compute

    @staticmethod
    def _fixed(source: Source, layer: torch.nn.Module) -> Any:
        match source:
            case Attribute():
                return source.of(layer)
            case Size(Attribute() as attribute, dim):
                return attribute.of(layer).shape[dim]
        return None


def tensors_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[torch.Tensor]:
    """Yield the tensors among a layer's arguments."""
    for _, value in _leaves(args, kwargs):
        if isinstance(value, torch.Tensor):
            yield value


def call_of(
    graph: Graph,
    flat: Sequence[Any],
    layer: torch.nn.Module,
    arguments: Arguments,
    *,
    outputs: Sequence[object],
    result: Any,
) -> LayerCall:
    """Work out how to call a graph from one call that was seen.

    Args:
        graph: The graph.
        flat: Its inputs in that call.
        layer: The layer that it computed.
        arguments: What the layer was called with.
        outputs: Of the graph in that call.
        result: What was made of them in the end.

    Raises:
        CannotCompile: An input or a result is of unknown origin.
    """
    args, kwargs = arguments
    leaves = list(_leaves(args, kwargs))
    tensors = [(x, value) for x, value in leaves if isinstance(value, torch.Tensor)]
    constants = [(x, value) for x, value in leaves if not isinstance(value, torch.Tensor)]
    for argument, value in constants:
        if not isinstance(value, CONSTANTS):
            raise CannotCompile(f"its argument {argument.key!r} is a {type(value).__name__}")
    return LayerCall(
        graph=graph,
        sources=tuple(_sources(flat, layer, tensors)),
        result=_result(result, outputs),
        form=Form(len(args), frozenset(kwargs), tuple(constants), hidden=tensors[0][0]),
    )


def _leaves(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[Argument, Any]]:
    given: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for key, value in given:
        if isinstance(value, tuple):
            yield from ((Argument(key, item), part) for item, part in enumerate(value))
        else:
            yield Argument(key), value


def _sources(
    flat: Sequence[Any], layer: torch.nn.Module, tensors: list[tuple[Argument, torch.Tensor]]
) -> Iterator[Source]:
    known: dict[int, Argument | Attribute] = {}
    sizes: dict[int, Size] = {}
    places: list[tuple[Argument | Attribute, torch.Tensor]] = [*tensors, *_attributes(layer)]
    for place, tensor in places:  # the hidden states first: their length is the one meant
        known.setdefault(id(tensor), place)
        for dim, size in enumerate(tensor.shape):
            sizes.setdefault(size, Size(place, dim))
    for value in flat:
        if isinstance(value, torch.Tensor) and id(value) in known:
            yield known[id(value)]
        elif type(value) is int and value in sizes:
            yield sizes[value]
        else:
            raise CannotCompile(f"its layers read a {type(value).__name__} of unknown origin")


def _attributes(layer: torch.nn.Module) -> Iterator[tuple[Attribute, torch.Tensor]]:
    for path, module in layer.named_modules():
        for tensors in (vars(module), module._parameters, module._buffers):
            for name, value in tensors.items():
                if isinstance(value, torch.Tensor):
                    yield Attribute(path, name), value


def _result(result: Any, outputs: Sequence[object]) -> int | tuple[int | None, ...]:
    places = {id(output): index for index, output in enumerate(outputs)}
    if id(result) in places:
        return places[id(result)]
    if isinstance(result, tuple) and all(x is None or id(x) in places for x in result):
        return tuple(None if x is None else places[id(x)] for x in result)
    raise CannotCompile(f"its layers return a {type(result).__name__} of unknown origin")
