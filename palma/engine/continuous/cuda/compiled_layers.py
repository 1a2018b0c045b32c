"""Decoder layers compiled by Inductor, one graph for all layers of a kind, beside the eager ones.

Dynamo traces each layer once, on copies of the modules that share the weights. Its guards choose
the graph, and where each input of the graph comes from is noted; from then on a layer calls its
graph with them directly. So a step evaluates no guards and can never compile, whatever other
threads compile meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from palma.engine.continuous.cuda.layer_calls import (
    CannotCompile,
    Graph,
    LayerCall,
    call_of,
    tensors_of,
)

TRACED_LENGTH = 61
"""Tokens of the pass that stands for all lengths above 1: no other size is likely this prime."""

LayerForward = Callable[..., Any]


class CompiledLayers:
    """The compiled counterpart of a model's decoder layers.

    The model must be as it will serve: its attention function set, its KV caches attached, its
    linear layers joined and quantized. What each layer reads is looked up anew by `install`:
    the tensors of then need the dtypes, shapes and strides of those at `compile`, but a KV cache
    may have another number of slots.

    Args:
        model: A causal language model of Transformers, in eval mode.
        _backend: Of `torch.compile`; tests have a faster one.

    Attributes:
        num_graphs: Compiled so far: for each kind of layer one at one token, and one at more.
    """

    def __init__(self, model: Any, *, _backend: str = "inductor") -> None:
        self._model = model
        self._backend = _backend
        self._single: list[LayerCall] = []
        self._several: list[LayerCall] = []
        self.num_graphs = 0

    def compile(self, example_lengths: Sequence[int]) -> None:
        """Compile for one token and for more, then run some numbers of tokens once.

        Any thread may call it while another one serves: no module is changed, and attention is
        left out of these runs, so no KV cache is touched. On CUDA they have a stream of their
        own, but compiling waits for the whole device, which must not capture a graph meanwhile.

        Args:
            example_lengths: Numbers of tokens; each takes an eager pass's memory for activations.

        Raises:
            CannotCompile: With the reason. The model is unchanged.
        """
        device = next(self._model.parameters()).device
        modules = _decoder_layers(self._model).modules()
        if any("forward" in vars(module) for module in modules):
            raise CannotCompile("somebody else has replaced the forward of one of its modules")
        try:
            if self._backend == "inductor":
                _spare_a_trace()
            with torch.inference_mode(), _own_stream(device):
                several, single = self._trace(TRACED_LENGTH), self._trace(1)
                if any(a.form != b.form for a, b in zip(several, single, strict=True)):
                    raise CannotCompile("it calls its layers differently for a single token")
                self._several, self._single = several, single
                for num_tokens in example_lengths:
                    self._warm(num_tokens)
        except CannotCompile:
            raise
        except Exception as error:
            raise CannotCompile(_reason(error)) from error

    def install(self) -> None:
        """Let the layers compute with what `compile` made; belongs to the thread that runs them.

        Call it again when a KV cache was replaced. A call unlike those that the model makes for
        tokens in one row, without a mask and a cache of its own, still goes to the eager layer.
        """
        layers = _decoder_layers(self._model)
        for layer, single, several in zip(layers, self._single, self._several, strict=True):
            vars(layer)["forward"] = _forward(layer, single, several)

    def remove(self) -> None:
        """Let the layers compute eagerly again; call it before the model is let go."""
        if not self._several:
            return
        for layer in _decoder_layers(self._model):
            vars(layer).pop("forward", None)

    def _trace(self, num_tokens: int) -> list[LayerCall]:
        """Run the model's code, with Dynamo tracing each layer as it is called."""
        backend = _NotingBackend(self._backend)
        traced = torch.compile(_fresh(_call), backend=backend, fullgraph=True, dynamic=False)
        calls = []

        def stand_in(_: int, layer: torch.nn.Module) -> LayerForward:
            def forward(*args: Any, **kwargs: Any) -> Any:
                calls.append(_note(traced, backend, layer, args, kwargs))
                with _without_attention():
                    return calls[-1].bind(layer)(args, kwargs)

            return forward

        _run(self._model, num_tokens, stand_in)
        self.num_graphs += backend.num_graphs
        return calls

    def _warm(self, num_tokens: int) -> None:
        """Let Triton and cuBLAS load what they need for this number of tokens."""

        def stand_in(index: int, layer: torch.nn.Module) -> LayerForward:
            compiled = _forward(layer, self._single[index], self._several[index])

            def forward(*args: Any, **kwargs: Any) -> Any:
                with _without_attention():
                    return compiled(*args, **kwargs)

            return forward

        _run(self._model, num_tokens, stand_in)


class _NotingBackend:
    """Compiles what Dynamo gives it, and notes calls of the graphs in place of running them."""

    def __init__(self, name: str) -> None:
        self._compile = torch._dynamo.lookup_backend(name)
        self.num_graphs = 0
        self.called: tuple[Graph, tuple[Any, ...], list[object]] | None = None
        """The graph called last, its flat inputs, and what was returned in its outputs' place."""

    def __call__(self, module: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        graph: Graph = self._compile(module, inputs)
        self.num_graphs += 1
        (output,) = (node for node in module.graph.nodes if node.op == "output")
        num_outputs = len(output.args[0])

        def note(*flat: Any) -> list[object]:
            outputs = [object() for _ in range(num_outputs)]
            self.called = graph, flat, outputs
            return outputs

        return note


class _WithoutAttention(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """In this thread, Palma's operators that write return zeros, and write nothing."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if not (func.namespace.startswith("palma") and func._schema.is_mutable):
            return func(*args, **(kwargs or {}))
        device = next(x.device for x in args if isinstance(x, torch.Tensor))
        shape_only = [x.to("meta") if isinstance(x, torch.Tensor) else x for x in args]
        return torch.zeros_like(func(*shape_only, **(kwargs or {})), device=device)


def _without_attention() -> TorchDispatchMode:
    return _WithoutAttention()  # type: ignore[no-untyped-call]


def _reason(error: Exception) -> str:
    """Return the first line of an error, and of a backend's own where Dynamo wrapped it."""
    error = getattr(error, "inner_exception", error)
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _call(layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return layer.forward(*args, **kwargs)


def _fresh(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a copy with its own code object: there Dynamo keeps its graphs, eight at most."""
    assert isinstance(function, FunctionType)
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)


def _note(
    traced: Callable[..., Any],
    backend: _NotingBackend,
    layer: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> LayerCall:
    """Have Dynamo find or make the graph of a layer, and note how to call it without Dynamo."""
    for tensor in tensors_of(args, kwargs):
        for dim, size in enumerate(tensor.shape):
            if size == TRACED_LENGTH:
                torch._dynamo.mark_dynamic(tensor, dim)
    before = _attributes(layer)
    backend.called = None
    try:
        result = traced(layer, args, kwargs)
    except torch._dynamo.exc.FailOnRecompileLimitHit as error:
        limit = torch._dynamo.config.recompile_limit
        raise CannotCompile(f"its layers are of more than {limit} kinds") from error
    called, backend.called = backend.called, None  # Dynamo never lets the backend go
    if called is None:
        raise CannotCompile("its layers compute nothing that is traced")
    if _attributes(layer) != before:
        raise CannotCompile("its layers keep something from one call to the next")
    graph, flat, outputs = called
    return call_of(graph, flat, layer, (args, kwargs), outputs=outputs, result=result)


def _attributes(layer: torch.nn.Module) -> dict[tuple[str, str], int]:
    return {
        (path, name): id(value)
        for path, module in layer.named_modules()
        for name, value in vars(module).items()
    }


def _forward(layer: torch.nn.Module, single: LayerCall, several: LayerCall) -> LayerForward:
    """Return what stands in for a layer's forward."""
    form = several.form
    call_single, call_several = single.bind(layer), several.bind(layer)

    def forward(*args: Any, **kwargs: Any) -> Any:
        num_tokens = form.num_tokens(args, kwargs)
        if num_tokens is None:
            return type(layer).forward(layer, *args, **kwargs)
        return (call_single if num_tokens == 1 else call_several)(args, kwargs)

    return forward


def _run(
    model: Any, num_tokens: int, stand_in: Callable[[int, torch.nn.Module], LayerForward]
) -> None:
    """Run a copy of the model whose layers compute with `stand_in(index, layer)`."""
    copy = _copy(model, {})
    layers = _decoder_layers(copy)
    for index, layer in enumerate(layers):
        outer = _shallow_copy(layer)
        vars(outer)["forward"] = stand_in(index, layer)
        layers._modules[str(index)] = outer
    positions = torch.arange(num_tokens, device=next(model.parameters()).device)[None]
    copy(
        input_ids=torch.zeros_like(positions),
        position_ids=positions,
        use_cache=False,
        logits_to_keep=1,
    )


def _copy(module: torch.nn.Module, copies: dict[int, torch.nn.Module]) -> torch.nn.Module:
    """Copy a tree of modules, but none of its parameters and buffers.

    Other tensors, as KV caches are, become views: how many slots they have is not to be part of
    a graph, so that the next start finds it in Inductor's cache whatever memory was free.
    """
    if id(module) not in copies:
        copies[id(module)] = copy = _shallow_copy(module)
        for name, child in module._modules.items():
            copy._modules[name] = None if child is None else _copy(child, copies)
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor) and value.dim():
                view = value.view_as(value)
                torch._dynamo.maybe_mark_dynamic(view, max(range(view.dim()), key=view.size))
                vars(copy)[name] = view
    return copies[id(module)]


def _shallow_copy(module: torch.nn.Module) -> torch.nn.Module:
    copy = module.__new__(type(module))
    vars(copy).update(vars(module))
    for name in ("_parameters", "_buffers", "_modules"):
        vars(copy)[name] = dict(vars(module)[name])
    return copy


def _decoder_layers(model: Any) -> torch.nn.ModuleList:
    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise CannotCompile(f"it has no list of its {count} layers")


@contextlib.contextmanager
def _own_stream(device: torch.device) -> Iterator[None]:
    """On CUDA, compute on another stream than the thread that serves."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()


def _spare_a_trace() -> None:
    """Give Inductor the one graph that it would trace with `torch.fx.symbolic_trace`.

    Such a trace replaces `nn.Module.__call__` for all threads, by one that fails for modules
    outside it: another thread could not run a model meanwhile.
    """
    from torch._inductor.loop_body import InterpreterShim

    graph = torch.fx.Graph()
    graph.output(graph.placeholder("x"))
    module = torch.fx.GraphModule(torch.nn.Module(), graph)
    shim: Any = InterpreterShim
    shim._dummy_gm = staticmethod(lambda: module)
