"""Multi-head attention in plain operations, which can be traced and allows heads to be removed."""

from __future__ import annotations

import math
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Which third of a packed weight is used: 0, 1 or 2 for query, key or value; None where all are.
THIRD: ContextVar[int | None] = ContextVar("THIRD", default=None)


def plain_attention(*args: Any, **kwargs: Any) -> Tensor:
    """Compute `torch.nn.functional.scaled_dot_product_attention` in plain operations.

    It takes the same arguments.
    """
    return _attend(*args, **kwargs)[0]


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the attention output and the attention weights."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    scores = (
        query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    )
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = F.dropout(scores.softmax(-1), dropout_p) if dropout_p else scores.softmax(-1)
    return weights @ value, weights


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,  # noqa: ARG001 - with fewer heads, inner and outer width differ
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
    **unsupported: Any,
) -> tuple[Tensor, Tensor | None]:
    """Compute `torch.nn.functional.multi_head_attention_forward` for any number and width of heads.

    Shapes are the same: query (L, N, E), key and value (S, N, ...). There may be fewer heads than
    E / head width.

    Raises:
        NotImplementedError: bias_k, bias_v, add_zero_attn, static keys or static values are used.
    """
    if bias_k is not None or bias_v is not None or add_zero_attn or any(unsupported.values()):
        raise NotImplementedError(
            "attention with bias_k, bias_v, add_zero_attn or static keys is not supported"
        )
    single = query.ndim == 2
    if single:
        query, key, value = query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    separate = (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else None
    q, k, v = _project(query, key, value, in_proj_weight, in_proj_bias, separate)
    heads = [_split(x, num_heads) for x in (q, k, v)]
    mask = _merge(attn_mask, key_padding_mask, is_causal, heads[0], heads[1])
    mixed, weights = _attend(heads[0], heads[1], heads[2], mask, dropout_p if training else 0.0)
    length, batch = q.shape[0], q.shape[1]
    mixed = mixed.permute(2, 0, 1, 3).reshape(length, batch, q.shape[-1])
    out = F.linear(mixed, out_proj_weight, out_proj_bias)
    returned = (weights.mean(1) if average_attn_weights else weights) if need_weights else None
    if single:
        return out.squeeze(1), None if returned is None else returned.squeeze(0)
    return out, returned


def _project(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packed: Tensor | None,
    bias: Tensor | None,
    separate: Any,
) -> tuple[Tensor, ...]:
    """Project query, key and value with the packed weight, or with separate ones if it is None."""
    if packed is None:
        projected = [F.linear(x, w) for x, w in zip((query, key, value), separate, strict=True)]
        if bias is None:
            return tuple(projected)
        width = len(bias) // 3
        # Use the whole bias three times: `Calls` does not recognise a slice as the model's bias.
        return tuple(
            (F.pad(x, (i * width, (2 - i) * width)) + bias).chunk(3, -1)[i]
            for i, x in enumerate(projected)
        )
    if key is query and value is query:
        return F.linear(query, packed, bias).chunk(3, -1)
    # Use the whole packed weight three times: `Calls` does not recognise a slice as the weight.
    return tuple(_third(i, x, packed, bias) for i, x in enumerate((query, key, value)))


def _third(number: int, x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    token = THIRD.set(number)
    try:
        return F.linear(x, packed, bias).chunk(3, -1)[number]
    finally:
        THIRD.reset(token)


def _split(x: Tensor, heads: int) -> Tensor:
    """Reshape (L, N, heads · width) to (N, heads, L, width)."""
    return x.reshape(x.shape[0], x.shape[1], heads, x.shape[2] // max(heads, 1)).permute(1, 2, 0, 3)


def _merge(
    mask: Tensor | None, padding: Tensor | None, is_causal: bool, query: Tensor, key: Tensor
) -> Tensor | None:
    """Merge the attention mask and the padding mask into one additive mask; None if there is none.

    In torch's boolean masks True excludes a position from attention.
    """
    batch, heads, length = query.shape[:3]
    if mask is None and is_causal:
        mask = torch.ones(length, key.shape[2], dtype=torch.bool, device=query.device).triu(1)
    total = None
    if mask is not None:
        total = _additive(mask, query.dtype)
        if total.ndim == 3:  # (N · heads that the caller counts, L, S)
            total = total.reshape(batch, -1, *total.shape[1:])[:, :heads]
    if padding is not None:
        additive = _additive(padding, query.dtype)[:, None, None, :]
        total = additive if total is None else total + additive
    return total


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)


class FewerHeads(nn.Module):
    """A replacement for `nn.MultiheadAttention` that allows heads to be removed.

    torch's own module requires that the number of heads times the head width is the width of its
    input, which does not hold after heads are removed. Parameters keep their names
    (`in_proj_weight`, `out_proj.weight`, …); arguments and results are those of
    `nn.MultiheadAttention.forward`.

    Raises:
        NotImplementedError: the attention has bias_k, bias_v or add_zero_attn.
    """

    # nn.TransformerEncoderLayer reads this; False keeps it from a fused path that skips forward().
    _qkv_same_embed_dim = False

    in_proj_weight: nn.Parameter | None
    q_proj_weight: nn.Parameter | None
    k_proj_weight: nn.Parameter | None
    v_proj_weight: nn.Parameter | None
    in_proj_bias: nn.Parameter | None

    def __init__(self, attention: nn.MultiheadAttention):
        super().__init__()
        self.head_dim = attention.head_dim
        self.num_heads = attention.num_heads
        self.embed_dim = attention.embed_dim
        self.dropout = attention.dropout
        self.batch_first = attention.batch_first
        if attention.bias_k is not None or attention.add_zero_attn:
            raise NotImplementedError(
                "attention with bias_k, bias_v or add_zero_attn is not supported"
            )
        for name in (
            "in_proj_weight",
            "q_proj_weight",
            "k_proj_weight",
            "v_proj_weight",
            "in_proj_bias",
        ):
            self.register_parameter(name, getattr(attention, name))
        self.out_proj = attention.out_proj
        self.train(attention.training)

    def refresh_(self) -> None:
        """Update the number of heads after a cut of the weights."""
        self.num_heads = self.out_proj.weight.shape[1] // self.head_dim

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute attention with the arguments and results of `nn.MultiheadAttention.forward`."""
        same = key is query and value is query
        if self.batch_first and query.ndim == 3:
            query = query.transpose(0, 1)
            key, value = (query, query) if same else (key.transpose(0, 1), value.transpose(0, 1))
        out, weights = multi_head_attention(
            query,
            key,
            value,
            self.embed_dim,
            self.num_heads,
            self.in_proj_weight,
            self.in_proj_bias,
            None,
            None,
            False,
            self.dropout,
            self.out_proj.weight,
            self.out_proj.bias,
            training=self.training,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            use_separate_proj_weight=self.in_proj_weight is None,
            q_proj_weight=self.q_proj_weight,
            k_proj_weight=self.k_proj_weight,
            v_proj_weight=self.v_proj_weight,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )
        if self.batch_first and out.ndim == 3:
            out = out.transpose(0, 1)
        return out, weights
