"""A whole step of a Llama-like model as one call of the C++ kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import torch

from palma.engine.continuous.cpu_kernel.kernel import DecodeKernel
from palma.engine.continuous.cpu_kernel.panel_linear import LinearCall, PanelLinear
from palma.engine.continuous.kv_cache import KVCache
from palma.engine.continuous.score_rules import ScoreRules
from palma.engine.continuous.sibling_linears import SiblingLinear

LAYER_CLASSES = frozenset(
    {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}
)
"""Layers of Transformers' that compute what decoder.h computes."""


class _Layer(ctypes.Structure):
    """`Layer` in decoder.h, field by field."""

    _fields_ = [
        *((name, LinearCall) for name in ("qkv", "output", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("input_norm", "middle_norm")),
        *((name, ctypes.c_void_p) for name in ("query_norm", "key_norm", "keys", "values")),
        ("window", ctypes.c_int64),
        ("scale", ctypes.c_double),
    ]


class _Model(ctypes.Structure):
    """`Model` in decoder.h."""

    _fields_ = [
        ("layers", ctypes.c_void_p),
        ("num_layers", ctypes.c_int64),
        ("head", LinearCall),
        ("final_norm", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("hidden_size", "intermediate_size")),
        *((name, ctypes.c_int64) for name in ("num_heads", "num_kv_heads", "head_dim")),
        *((name, ctypes.c_int64) for name in ("num_slots", "block_size")),
        ("epsilon", ctypes.c_double),
        ("is_bfloat16", ctypes.c_int32),
    ]


class _Step(ctypes.Structure):
    """`Step` in decoder.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("hidden", "cosines", "sines")),
        *((name, ctypes.c_void_p) for name in ("block_tables", "lengths", "first_rows")),
        *((name, ctypes.c_void_p) for name in ("head_rows", "logits")),
        *((name, ctypes.c_int64) for name in ("batch", "num_rows", "num_logits")),
        *((name, ctypes.c_int64) for name in ("max_blocks", "num_threads")),
    ]


class UnknownModel(Exception):
    """The kernel does not know how to compute this model; the message says why."""


class StepDecoder:
    """Computes the next tokens of several sequences, from embeddings to logits, outside Python.

    The residual stream is float32 whatever the model's precision.

    Args:
        model: A causal language model of Transformers' whose linear layers are all PanelLinear.
        kernel: Has them packed.
        kv_cache: Where keys and values go; its layers are made if they are not there.
        rules: Of the scores, by layer, as the model's own code asks for them.

    Raises:
        UnknownModel: Some part of it is not what the kernel computes.
    """

    def __init__(
        self,
        model: Any,
        kernel: DecodeKernel,
        kv_cache: KVCache,
        rules: Mapping[int, ScoreRules],
    ) -> None:
        require_known(model)
        inner = model.model
        attention, norm = inner.layers[0].self_attn, inner.norm
        self._embed, self._rotary = inner.embed_tokens, inner.rotary_emb
        self._function = kernel.library.palma_decode
        self._vocab_size = model.lm_head.out_features
        self._kept: list[Any] = [kernel, kv_cache, model]  # what the structures below point to
        layers = [self._layer(layer, kv_cache, rules) for layer in inner.layers]
        self._layers = (_Layer * len(layers))(*layers)
        self._model = _Model(
            ctypes.addressof(self._layers),
            len(layers),
            _packed(model.lm_head).call,
            self._floats(norm.weight),
            model.config.hidden_size,
            model.config.intermediate_size,
            model.config.num_attention_heads,
            model.config.num_key_value_heads,
            attention.head_dim,
            kv_cache.num_blocks * kv_cache.block_size,
            kv_cache.block_size,
            norm.variance_epsilon,
            model.dtype == torch.bfloat16,
        )

    def step(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        first_rows: torch.Tensor,
        *,
        block_tables: torch.Tensor,
        kv_lengths: torch.Tensor,
        num_threads: int,
    ) -> torch.Tensor:
        """Store the keys and values of the next tokens, and compute what follows the last of each.

        Args:
            token_ids: (1, num_rows), int64: those of the first sequence, then the next one's.
            positions: The same.
            first_rows: (batch + 1,), int32: where each sequence's begin; they end at num_rows.
            block_tables: (batch, max_blocks), int32, contiguous; not checked.
            kv_lengths: (batch,), int32: tokens of each sequence, these included.
            num_threads: At least 1.

        Returns:
            The logits (batch, vocab_size), float32.
        """
        head_rows = first_rows[1:] - 1
        hidden: torch.Tensor = self._embed(token_ids)[0].float().contiguous()
        cosines, sines = (found[0].contiguous() for found in self._rotary(hidden, positions))
        logits = hidden.new_empty(head_rows.shape[0], self._vocab_size)
        tensors = (
            *(hidden, cosines, sines, block_tables, kv_lengths, first_rows),
            *(head_rows, logits),
        )
        step = _Step(
            *(tensor.data_ptr() for tensor in tensors),
            block_tables.shape[0],
            hidden.shape[0],
            logits.shape[0],
            block_tables.shape[1],
            num_threads,
        )
        self._function(ctypes.byref(self._model), ctypes.byref(step))
        return logits

    def _layer(self, layer: Any, kv_cache: KVCache, rules_of: Mapping[int, ScoreRules]) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        rules = rules_of[attention.layer_idx]
        if rules.softcap is not None or rules.sinks is not None:
            raise UnknownModel("its scores are capped, or have sinks")
        shape = (1, attention.config.num_key_value_heads, 1, attention.head_dim)
        like = layer.input_layernorm.weight.new_empty(shape)
        keys, values = kv_cache.layer(attention.layer_idx, like, like)
        norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
        return _Layer(
            _packed(attention.q_proj).call,
            _packed(attention.o_proj).call,
            _packed(mlp.gate_proj).call,
            _packed(mlp.down_proj).call,
            self._floats(layer.input_layernorm.weight),
            self._floats(layer.post_attention_layernorm.weight),
            *(None if norm is None else self._floats(norm.weight) for norm in norms),
            keys.data_ptr(),
            values.data_ptr(),
            rules.sliding_window or 0,
            rules.scale(attention.head_dim),
        )

    def _floats(self, weight: torch.Tensor) -> int:
        """Return where a float32 copy of a weight lies."""
        copy = weight.detach().float().contiguous()
        self._kept.append(copy)
        return copy.data_ptr()


def require_known(model: Any) -> None:
    """Refuse models that the kernel would not compute rightly, packed or not.

    Raises:
        UnknownModel: With the reason.
    """
    inner = getattr(model, "model", None)
    layers = getattr(inner, "layers", None)
    rotary = getattr(inner, "rotary_emb", None)
    if not layers or rotary is None or not hasattr(model, "lm_head"):
        raise UnknownModel("it is not built like Llama")
    kinds = {type(layer).__name__ for layer in layers} - LAYER_CLASSES
    if kinds:
        raise UnknownModel(f"it has layers of the class {', '.join(sorted(kinds))}")
    if model.config.hidden_act != "silu":
        raise UnknownModel(f"its activation is {model.config.hidden_act}")
    head_dim = layers[0].self_attn.head_dim
    if head_dim % 2 or rotary.inv_freq.shape[0] * 2 != head_dim:
        raise UnknownModel("it rotates a part of a head only")


def is_known(model: Any) -> bool:
    """Whether the kernel knows how to compute a model."""
    try:
        require_known(model)
    except UnknownModel:
        return False
    return True


def _packed(linear: Any) -> PanelLinear:
    """Return the packed layer that stands at a place, or that it shares with its siblings."""
    found = linear.shared.together if isinstance(linear, SiblingLinear) else linear
    if not isinstance(found, PanelLinear):
        raise UnknownModel(f"one of its layers is a {type(found).__name__}")
    return found
