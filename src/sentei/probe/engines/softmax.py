"""Compute the cross-entropy without each unit that a linear classifier reads, for all at once.

With s = sum_c exp(z_c - w_ck o_k), the loss without unit k is log s minus the target's logit, which
is z_c - w_ck o_k at the target's class c. The exponentials take nearly all the time. When units are
removed one after another, the factors exp(-w_ck o_k) of the others do not change, so they are
cached from the second unit on where memory allows: a ranking then takes a few multiplications.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sentei.probe.recording.recording import CallInput

# A unit is safe on a block if it changes no logit by more than this. With the largest logit at 0,
# sums of exponentials without a safe unit neither overflow nor underflow in float32. A class whose
# exponential underflows, below exp(-87), would not change the sum even if it were exp(60) times as
# large.
_SAFE_SHIFT = 30.0
# Cached factors are copied into a smaller tensor when no more than this part of them is still used.
_FILLED = 0.75


@dataclass(frozen=True, eq=False)
class Factors:
    """Cached factors exp(-w_ck o_k) of some columns k on one block.

    Attributes:
        columns: (k,) the columns, ascending.
        weight: (classes, k) the weights w_ck that the factors were computed with.
        values: (classes, k, n) the factors.
    """

    columns: Tensor
    weight: Tensor
    values: Tensor

    def rows(self, columns: Tensor, weight: Tensor) -> Tensor | None:
        """Return the positions of columns in `self.columns`; None if any is missing or outdated.

        A column is outdated if its weights have changed.
        """
        rows = torch.searchsorted(self.columns, columns).clamp_(max=len(self.columns) - 1)
        same = torch.equal(self.columns[rows], columns) and torch.equal(
            self.weight[:, rows], weight
        )
        return rows if same else None


@dataclass(eq=False)
class SoftmaxRises:
    """Compute the rise of a block's summed cross-entropy with each column removed alone.

    Attributes:
        remembers: whether factors are cached.
    """

    remembers: bool
    _factors: WeakKeyDictionary[CallInput, Factors] = field(default_factory=WeakKeyDictionary)

    def __call__(
        self,
        z: Tensor,
        weight: Tensor,
        inputs: CallInput,
        columns: Tensor,
        scratch: Tensor,
        *,
        passing: bool = False,
    ) -> Tensor:
        """Return the rises, (k,) float64.

        Args:
            z: (classes, n) logits.
            weight: (classes, columns) weight of the layer that outputs the logits.
            inputs: the input of that layer.
            columns: (k,) the columns to remove.
            scratch: flat buffer for the logits of some candidates.
            passing: `inputs` is used only once, so its factors are not cached.
        """
        z = z - z.amax(0)
        base = z.exp().sum(0).log().sum(dtype=torch.float64)
        # Caching does not pay for the first removal; a column of zeros shows that one took place.
        pruned = bool((weight == 0).all(0).any())
        weight = weight[:, columns]
        safe = weight.abs().amax(0) * inputs.peaks[columns] < _SAFE_SHIFT
        if self.remembers and not passing and pruned and safe.all():
            sums = self._from_cache(z, weight, inputs, columns)
        else:
            sums = _computed(z, weight, inputs.o, columns, safe, scratch)
        of_targets = inputs.by_class[:, columns] * weight[: len(inputs.by_class)]
        return sums - base + of_targets.sum(0, dtype=torch.float64)

    def _from_cache(self, z: Tensor, weight: Tensor, inputs: CallInput, columns: Tensor) -> Tensor:
        """(k,) float64 sums of log s, from cached factors.

        The sum of a row has the same bits whatever other rows the tensor holds, so results do not
        depend on which columns are cached.
        """
        cached = self._factors.get(inputs)
        rows = None if cached is None else cached.rows(columns, weight)
        if cached is None or rows is None:
            cached, rows = _factors(weight, inputs.o, columns), torch.arange(len(columns))
        elif len(rows) <= _FILLED * len(cached.columns):
            cached, rows = Factors(columns, weight, cached.values[:, rows]), torch.arange(len(rows))
        self._factors[inputs] = cached
        classes = z.exp()
        s = cached.values[0] * classes[0]
        for values, of_class in zip(cached.values[1:], classes[1:], strict=True):
            s.addcmul_(values, of_class)
        return s[rows].log_().sum(1, dtype=torch.float64)


def _factors(weight: Tensor, o: Tensor, columns: Tensor) -> Factors:
    """Compute the factors of some columns."""
    o = o[columns]
    values = o.new_empty(len(weight), *o.shape)
    for row, out in zip(weight.neg(), values, strict=True):  # one class at a time fits the cache
        torch.mul(o, row[:, None], out=out).exp_()
    return Factors(columns, weight, values)


def _computed(
    z: Tensor, weight: Tensor, o: Tensor, columns: Tensor, safe: Tensor, scratch: Tensor
) -> Tensor:
    """(k,) float64 sums of log s, from the logits of as many candidates as fit `scratch`."""
    count = scratch.numel() // z.numel()
    sums = []
    for start in range(0, len(columns), count):
        chunk = slice(start, start + count)
        own = weight[:, chunk]
        out = scratch[: z.shape[1] * own.numel()].view(*own.shape, -1)
        torch.addcmul(z[:, None], own[:, :, None], o[columns[chunk]], value=-1, out=out)
        logs = out.exp_().sum(0).log_() if safe[chunk].all() else out.logsumexp(0)
        sums.append(logs.sum(1, dtype=torch.float64))
    return torch.cat(sums)
