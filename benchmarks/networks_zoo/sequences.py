"""Hand-written networks for sequences: recurrent layers, causal convolutions, attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, rnn

from networks_zoo.plain import PLAIN, plain


class Recurrent(nn.Module):
    """Words, a recurrent module and a linear layer that reads its last step."""

    def __init__(self, kind: type = nn.LSTM, **settings: Any):
        super().__init__()
        self.words = nn.Embedding(50, 16)
        self.memory = kind(16, 24, batch_first=True, **settings)
        width = settings.get("proj_size") or 24
        self.head = nn.Linear(width * (2 if settings.get("bidirectional") else 1), 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (samples, tokens) to (samples, 5)."""
        return self.head(self.memory(self.words(tokens))[0][:, -1])


def _recurrent(name: str, kind: type, **settings: Any) -> None:
    PLAIN[name] = lambda: (Recurrent(kind, **settings), torch.randint(0, 50, (3, 7)))


_recurrent("lstm", nn.LSTM)
_recurrent("lstm-2-layers", nn.LSTM, num_layers=2)
_recurrent("lstm-bidirectional", nn.LSTM, bidirectional=True, num_layers=2)
_recurrent("lstm-projected", nn.LSTM, proj_size=12)
_recurrent("gru", nn.GRU)
_recurrent("gru-bidirectional", nn.GRU, bidirectional=True)
_recurrent("rnn", nn.RNN, nonlinearity="relu")


class Packed(Recurrent):
    """A recurrent classifier of sequences of several lengths."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (3, 7) tokens, of which 7, 5 and 2 count, to (3, 5)."""
        packed = rnn.pack_padded_sequence(
            self.words(tokens), torch.tensor([7, 5, 2]), batch_first=True
        )
        hidden = self.memory(packed)[1]
        return self.head(hidden[0][-1] if isinstance(hidden, tuple) else hidden[-1])


PLAIN["lstm-packed"] = lambda: (Packed(nn.LSTM), torch.randint(0, 50, (3, 7)))
PLAIN["gru-packed"] = lambda: (Packed(nn.GRU), torch.randint(0, 50, (3, 7)))


@plain(3, 6, 10, name="lstm-cell", kind=nn.LSTMCell)
@plain(3, 6, 10, name="gru-cell", kind=nn.GRUCell)
class Cells(nn.Module):
    """A recurrent cell in a loop over time."""

    def __init__(self, kind: type):
        super().__init__()
        self.cell, self.head = kind(10, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, steps, 10) to (samples, 3)."""
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        assert state is not None
        return self.head(state[0] if isinstance(state, tuple) else state)


@plain(2, 1, 16, 40, name="crnn")
class CRNN(nn.Module):
    """Convolutions, then a bidirectional LSTM along the width: text in pictures."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.memory = nn.LSTM(32 * 4, 24, bidirectional=True)
        self.head = nn.Linear(48, 11)

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, 1, 16, 40) to (10, samples, 11)."""
        y = self.stem(x).flatten(1, 2).permute(2, 0, 1)
        return self.head(self.memory(y)[0])


class Translator(nn.Module):
    """An encoder and a decoder with additive attention, one step at a time."""

    def __init__(self):
        super().__init__()
        self.source, self.target = nn.Embedding(40, 12), nn.Embedding(40, 12)
        self.encoder = nn.GRU(12, 20, batch_first=True, bidirectional=True)
        self.cell = nn.GRUCell(12 + 40, 28)
        self.query, self.key, self.score = nn.Linear(28, 16), nn.Linear(40, 16), nn.Linear(16, 1)
        self.start, self.head = nn.Linear(40, 28), nn.Linear(28, 40)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Map (samples, steps) source and target tokens to (samples, steps, 40) logits."""
        memory = self.encoder(self.source(source))[0]
        state, logits = torch.tanh(self.start(memory.mean(1))), []
        for step in self.target(target).unbind(1):
            scores = self.score(torch.tanh(self.query(state)[:, None] + self.key(memory)))
            context = (scores.softmax(1) * memory).sum(1)
            state = self.cell(torch.cat([step, context], -1), state)
            logits.append(self.head(state))
        return torch.stack(logits, 1)


PLAIN["seq2seq-attention"] = lambda: (
    Translator(),
    (torch.randint(0, 40, (2, 6)), torch.randint(0, 40, (2, 4))),
)


@plain(2, 3, 5, 12, 12, name="convlstm")
class ConvLSTM(nn.Module):
    """A convolutional LSTM over frames."""

    def __init__(self, width: int = 12):
        super().__init__()
        self.width = width
        self.gates = nn.Conv2d(5 + width, 4 * width, 3, padding=1)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, frames, 5, height, width) to (samples, 2, height, width)."""
        hidden = x.new_zeros(x.shape[0], self.width, *x.shape[3:])
        cell = torch.zeros_like(hidden)
        for frame in x.unbind(1):
            i, f, g, o = self.gates(torch.cat([frame, hidden], 1)).chunk(4, 1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
        return self.head(hidden)


class TemporalBlock(nn.Module):
    """Two causal, dilated convolutions with weight norm, and a shortcut."""

    def __init__(self, width: int, out: int, dilation: int, normed: Callable[..., Any]):
        super().__init__()
        self.pad = 2 * dilation
        self.conv1 = normed(nn.Conv1d(width, out, 3, dilation=dilation))
        self.conv2 = normed(nn.Conv1d(out, out, 3, dilation=dilation))
        self.shortcut = nn.Conv1d(width, out, 1) if width != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, width, steps) to (samples, out, steps)."""
        y = F.relu(self.conv1(F.pad(x, (self.pad, 0))))
        y = F.relu(self.conv2(F.pad(y, (self.pad, 0))))
        return F.relu(y + self.shortcut(x))


@plain(2, 4, 20, name="tcn", normed=lambda layer: layer)
@plain(2, 4, 20, name="tcn-weight-norm", normed=parametrizations.weight_norm)
@plain(2, 4, 20, name="tcn-old-weight-norm", normed=nn.utils.weight_norm)
class TCN(nn.Module):
    """A temporal convolutional network."""

    def __init__(self, normed: Callable[..., Any]):
        super().__init__()
        self.blocks = nn.Sequential(
            TemporalBlock(4, 24, 1, normed),
            TemporalBlock(24, 24, 2, normed),
            TemporalBlock(24, 32, 4, normed),
        )
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, 4, steps) to (samples, 3)."""
        return self.head(self.blocks(x)[:, :, -1])


@plain(2, 1, 30, name="wavenet", packed=False)
@plain(2, 1, 30, name="wavenet-packed", packed=True)
class WaveNet(nn.Module):
    """Gated, dilated convolutions with residual and skip paths."""

    def __init__(self, packed: bool, width: int = 16, skip: int = 20):
        super().__init__()
        self.packed, self.width = packed, width
        self.stem = nn.Conv1d(1, width, 1)
        self.gates, self.filters, self.residual, self.skip = (nn.ModuleList() for _ in range(4))
        for layer in range(3):
            hole = 2**layer
            if packed:
                self.filters.append(nn.Conv1d(width, 2 * width, 2, dilation=hole))
                self.residual.append(nn.Conv1d(width, width + skip, 1))
            else:
                self.filters.append(nn.Conv1d(width, width, 2, dilation=hole))
                self.gates.append(nn.Conv1d(width, width, 2, dilation=hole))
                self.residual.append(nn.Conv1d(width, width, 1))
                self.skip.append(nn.Conv1d(width, skip, 1))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(skip, 24, 1), nn.ReLU(), nn.Conv1d(24, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, 1, steps) to (samples, 8, steps)."""
        x, total = self.stem(x), 0
        for layer in range(3):
            padded = F.pad(x, (2**layer, 0))
            if self.packed:
                f, g = self.filters[layer](padded).chunk(2, 1)
                more, skip = self.residual[layer](f.tanh() * g.sigmoid()).split(
                    [self.width, self.head[1].in_channels], 1
                )
            else:
                y = self.filters[layer](padded).tanh() * self.gates[layer](padded).sigmoid()
                more, skip = self.residual[layer](y), self.skip[layer](y)
            x, total = x + more, total + skip
        return self.head(total)


@plain(2, 1, 400, name="m5-audio")
class M5(nn.Module):
    """Convolutions over a raw waveform."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv1d(1, 32, 80, 4), nn.BatchNorm1d(32), nn.ReLU(), nn.MaxPool1d(4)),
            *(nn.Conv1d(32, 48, 3), nn.BatchNorm1d(48), nn.ReLU(), nn.MaxPool1d(4)),
        )
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, 1, 400) to (samples, 10)."""
        return self.head(self.layers(x).mean(-1))


@plain(3, 8, name="ft-transformer")
class TableTransformer(nn.Module):
    """Each feature of a table becomes a token; torch's own encoder reads them."""

    def __init__(self, width: int = 24):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, width))
        self.bias = nn.Parameter(torch.randn(8, width))
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        layer = nn.TransformerEncoderLayer(width, 4, 32, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, 8) to (samples, 2)."""
        tokens = x[..., None] * self.weight + self.bias
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1)
        return self.head(self.encoder(tokens)[:, 0])


class TorchTransformer(nn.Module):
    """`nn.Transformer` with its masks: an encoder and a decoder."""

    def __init__(self, width: int = 24):
        super().__init__()
        self.words = nn.Embedding(30, width)
        self.body = nn.Transformer(width, 4, 1, 1, 32, batch_first=True)
        self.head = nn.Linear(width, 30)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Map (samples, steps) source and target tokens to logits."""
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        hidden = self.body(self.words(source), self.words(target), tgt_mask=mask)
        return self.head(hidden)


PLAIN["torch-transformer"] = lambda: (
    TorchTransformer(),
    (torch.randint(0, 30, (2, 6)), torch.randint(0, 30, (2, 5))),
)


@plain(2, 8, 20, name="selective-scan")
class StateSpace(nn.Module):
    """A diagonal state-space layer, run step by step."""

    def __init__(self, width: int = 16, states: int = 4):
        super().__init__()
        self.into, self.head = nn.Linear(20, 2 * width), nn.Linear(width, 5)
        self.log_decay = nn.Parameter(torch.randn(width, states))
        self.read = nn.Parameter(torch.randn(width, states))
        self.skip = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, steps, 20) to (samples, steps, 5)."""
        y, gate = self.into(x).chunk(2, -1)
        decay = torch.exp(-self.log_decay.exp())
        state, outputs = y.new_zeros(len(y), *decay.shape), []
        for step in y.unbind(1):
            state = decay * state + step[..., None]
            outputs.append((state * self.read).sum(-1) + self.skip * step)
        return self.head(torch.stack(outputs, 1) * F.silu(gate))


@plain(2, 12, 16, name="linear-attention")
class LinearAttention(nn.Module):
    """Attention without softmax: keys and values are summed first."""

    def __init__(self, width: int = 24, heads: int = 3):
        super().__init__()
        self.heads = heads
        self.stem, self.head = nn.Linear(16, width), nn.Linear(width, 4)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, tokens, 16) to (samples, tokens, 4)."""
        x = self.stem(x)
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        q, k = F.elu(q) + 1, F.elu(k) + 1
        total = torch.einsum("bhnd,bhne->bhde", k, v)
        scale = 1 / torch.einsum("bhnd,bhd->bhn", q, k.sum(2))
        y = torch.einsum("bhnd,bhde,bhn->bhne", q, total, scale)
        return self.head(x + self.out(y.transpose(1, 2).flatten(2)))
