"""Cross-entropy without each unit of the layer that a linear classifier hears, all at once.

With s = sum_c exp(z_c - w_ck o_k), the loss without unit k is log s less the target's own logit.
The exponentials are nearly all the work. While units go one after another those of exp(-w_ck o_k)
stay as they are, so from the second unit on they are remembered where there is room: a ranking is
then a few multiplications.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sentei.probe.recording.recording import CallInput

# A unit is calm on a block if it moves no logit by more than this. With the largest logit at 0,
# sums of exponentials without a calm unit neither overflow nor vanish in float32, and classes that
# do vanish, being below exp(-87), could not have counted: not even exp(60) times as much.
_SAFE_SHIFT = 30.0
# Remembered factors are copied together once so few of them are still asked for.
_FILLED = 0.75


@dataclass(frozen=True, eq=False)
class Factors:
    """exp(-w_ck o_k) of some columns k on one block.

    Attributes:
        columns: (k,) which, ascending.
        weight: (classes, k) the weights they were computed with.
        values: (classes, k, n).
    """

    columns: Tensor
    weight: Tensor
    values: Tensor

    def rows(self, columns: Tensor, weight: Tensor) -> Tensor | None:
        """Where the columns are among these; None if one is missing or its weights have changed."""
        rows = torch.searchsorted(self.columns, columns).clamp_(max=len(self.columns) - 1)
        same = torch.equal(self.columns[rows], columns) and torch.equal(
            self.weight[:, rows], weight
        )
        return rows if same else None


@dataclass(eq=False)
class SoftmaxRises:
    """How much the summed cross-entropy of a block rises, for each column left out alone.

    Attributes:
        remembers: whether there is room for factors.
    """

    remembers: bool
    _factors: WeakKeyDictionary[CallInput, Factors] = field(default_factory=WeakKeyDictionary)

    def __call__(
        self,
        z: Tensor,
        weight: Tensor,
        heard: CallInput,
        columns: Tensor,
        scratch: Tensor,
        *,
        passing: bool = False,
    ) -> Tensor:
        """(k,) float64.

        Args:
            z: (classes, n) logits.
            weight: (classes, columns) of the layer that puts them out.
            heard: what that layer heard.
            columns: (k,) which to leave out.
            scratch: room for the logits of some candidates, flat.
            passing: what was heard will not be asked about again, so nothing is remembered.
        """
        z = z - z.amax(0)
        base = z.exp().sum(0).log().sum(dtype=torch.float64)
        # The first unit to go does not pay for factors; whether one has gone, the weights tell.
        pruned = bool((weight == 0).all(0).any())
        weight = weight[:, columns]
        calm = weight.abs().amax(0) * heard.peaks[columns] < _SAFE_SHIFT
        if self.remembers and not passing and pruned and calm.all():
            sums = self._remembered(z, weight, heard, columns)
        else:
            sums = _computed(z, weight, heard.o, columns, calm, scratch)
        of_targets = heard.by_class[:, columns] * weight[: len(heard.by_class)]
        return sums - base + of_targets.sum(0, dtype=torch.float64)

    def _remembered(self, z: Tensor, weight: Tensor, heard: CallInput, columns: Tensor) -> Tensor:
        """(k,) float64 sums of log s, from factors.

        A row's sum has the same bits whatever rows stand beside it, so it does not matter which
        columns are still remembered.
        """
        known = self._factors.get(heard)
        rows = None if known is None else known.rows(columns, weight)
        if known is None or rows is None:
            known, rows = _factors(weight, heard.o, columns), torch.arange(len(columns))
        elif len(rows) <= _FILLED * len(known.columns):
            known, rows = Factors(columns, weight, known.values[:, rows]), torch.arange(len(rows))
        self._factors[heard] = known
        classes = z.exp()
        s = known.values[0] * classes[0]
        for values, of_class in zip(known.values[1:], classes[1:], strict=True):
            s.addcmul_(values, of_class)
        return s[rows].log_().sum(1, dtype=torch.float64)


def _factors(weight: Tensor, o: Tensor, columns: Tensor) -> Factors:
    o = o[columns]
    values = o.new_empty(len(weight), *o.shape)
    for row, out in zip(weight.neg(), values, strict=True):  # one class at a time stays in cache
        torch.mul(o, row[:, None], out=out).exp_()
    return Factors(columns, weight, values)


def _computed(
    z: Tensor, weight: Tensor, o: Tensor, columns: Tensor, calm: Tensor, scratch: Tensor
) -> Tensor:
    """(k,) float64 sums of log s, from the logits of some candidates at a time."""
    count = scratch.numel() // z.numel()
    sums = []
    for start in range(0, len(columns), count):
        chunk = slice(start, start + count)
        own = weight[:, chunk]
        out = scratch[: z.shape[1] * own.numel()].view(*own.shape, -1)
        torch.addcmul(z[:, None], own[:, :, None], o[columns[chunk]], value=-1, out=out)
        logs = out.exp_().sum(0).log_() if calm[chunk].all() else out.logsumexp(0)
        sums.append(logs.sum(1, dtype=torch.float64))
    return torch.cat(sums)
