"""Recurrent networks, convolutions over time and state-space models, by hand and of PyTorch."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from . import Net, register, sequences, tokens, weight

BUILDERS = {}
idiom = register(BUILDERS)


@idiom
def lstm_last_state():
    def forward(m, x):
        return m.o(m.r(x)[1][0][-1])

    return Net(forward, r=nn.LSTM(6, 12, 2, batch_first=True), o=nn.Linear(12, 3)), *sequences()


@idiom
def bidirectional_gru():
    def forward(m, x):
        return m.o(m.r(m.words(x))[0].mean(1))

    return Net(
        forward,
        words=nn.Embedding(50, 8),
        o=nn.Linear(20, 3),
        r=nn.GRU(8, 10, 2, batch_first=True, bidirectional=True),
    ), *tokens()


@idiom
def lstm_with_projection():
    def forward(m, x):
        return m.o(m.r(x)[0][:, -1])

    return Net(
        forward, r=nn.LSTM(6, 12, proj_size=5, batch_first=True), o=nn.Linear(5, 3)
    ), *sequences()


@idiom
def elman_relu():
    def forward(m, x):
        return m.o(m.r(x.transpose(0, 1))[0][-1])

    return Net(forward, r=nn.RNN(6, 12, nonlinearity="relu"), o=nn.Linear(12, 3)), *sequences()


@idiom
def packed_lstm():
    def forward(m, x, lengths):
        packed = pack_padded_sequence(m.words(x), lengths, batch_first=True, enforce_sorted=False)
        out, _ = pad_packed_sequence(m.r(packed)[0], batch_first=True)
        return m.o(out)

    (x, y), lengths = tokens(), (torch.tensor([7, 4]), torch.tensor([5, 9, 3]))
    return (
        Net(
            forward,
            words=nn.Embedding(50, 8),
            r=nn.LSTM(8, 12, batch_first=True),
            o=nn.Linear(12, 3),
        ),
        (x, lengths[0]),
        (y, lengths[1]),
    )


@idiom
def packed_gru_last():
    def forward(m, x, lengths):
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return m.o(m.r(packed)[1].squeeze(0))

    (x, y), lengths = sequences(), (torch.tensor([7, 4]), torch.tensor([5, 9, 3]))
    return (
        Net(forward, r=nn.GRU(6, 12, batch_first=True), o=nn.Linear(12, 3)),
        (x, lengths[0]),
        (y, lengths[1]),
    )


def stepped(cell, hidden, **parts):
    "A network with a cell in a loop."

    def forward(m, x):
        h = hidden(m, x)
        for t in range(x.shape[1]):
            h = cell(m, x[:, t], h)
        return m.o(h[0] if isinstance(h, tuple) else h)

    return Net(forward, o=nn.Linear(12, 3), **parts), *sequences()


def zeros(m, x):
    return torch.zeros(len(x), 12, dtype=x.dtype)


@idiom
def gru_cell_loop():
    return stepped(lambda m, x, h: m.c(x, h), zeros, c=nn.GRUCell(6, 12))


@idiom
def lstm_cell_loop():
    return stepped(
        lambda m, x, h: m.c(x, h), lambda m, x: (zeros(m, x), zeros(m, x)), c=nn.LSTMCell(6, 12)
    )


@idiom
def rnn_cell_loop_learned_start():
    return stepped(
        lambda m, x, h: m.c(x, h),
        lambda m, x: m.start.expand(len(x), -1),
        c=nn.RNNCell(6, 12),
        start=weight(12),
    )


@idiom
def handwritten_lstm():
    def cell(m, x, state):
        h, c = state
        i, f, g, o = (m.a(x) + m.b(h)).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    return stepped(
        cell, lambda m, x: (zeros(m, x), zeros(m, x)), a=nn.Linear(6, 48), b=nn.Linear(12, 48)
    )


@idiom
def handwritten_lstm_concatenated():
    def cell(m, x, state):
        h, c = state
        gates = m.a(torch.cat([x, h], 1))
        i, f, g, o = gates[:, :12], gates[:, 12:24], gates[:, 24:36], gates[:, 36:]
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    return stepped(cell, lambda m, x: (zeros(m, x), x.new_zeros(len(x), 12)), a=nn.Linear(18, 48))


@idiom
def handwritten_gru():
    def cell(m, x, h):
        r, z = m.rz(torch.cat([x, h], -1)).sigmoid().split(12, -1)
        return (1 - z) * h + z * m.n(torch.cat([x, r * h], -1)).tanh()

    return stepped(cell, zeros, rz=nn.Linear(18, 24), n=nn.Linear(18, 12))


@idiom
def gru_d_decay():
    def forward(m, x, mask, gap):
        h = zeros(m, x)
        for t in range(x.shape[1]):
            h = h * torch.exp(-F.relu(m.d(gap[:, t])))
            own = mask[:, t] * x[:, t] + (1 - mask[:, t]) * m.mean
            h = m.c(torch.cat([own, mask[:, t]], 1), h)
        return m.o(h)

    examples = [
        (x, (torch.rand_like(x) > 0.3).to(x.dtype), torch.rand_like(x)) for x in sequences()
    ]
    return Net(
        forward, c=nn.GRUCell(12, 12), d=nn.Linear(6, 12), mean=weight(6), o=nn.Linear(12, 3)
    ), *examples


@idiom
def layer_norm_lstm():
    def cell(m, x, state):
        h, c = state
        i, f, g, o = (m.p(m.a(x)) + m.q(m.b(h))).chunk(4, -1)
        c = m.n(f.sigmoid() * c + i.sigmoid() * g.tanh())
        return o.sigmoid() * c.tanh(), c

    return stepped(
        cell,
        lambda m, x: (zeros(m, x), zeros(m, x)),
        a=nn.Linear(6, 48),
        b=nn.Linear(12, 48),
        p=nn.LayerNorm(48),
        q=nn.LayerNorm(48),
        n=nn.LayerNorm(12),
    )


@idiom
def minimal_gated_unit():
    def cell(m, x, h):
        f = m.f(torch.cat([x, h], 1)).sigmoid()
        return torch.lerp(h, m.n(torch.cat([x, f * h], 1)).tanh(), f)

    return stepped(cell, zeros, f=nn.Linear(18, 12), n=nn.Linear(18, 12))


@idiom
def independent_rnn():
    return stepped(
        lambda m, x, h: F.relu(m.a(x) + m.u * h), zeros, a=nn.Linear(6, 12), u=weight(12)
    )


@idiom
def simple_recurrent_unit():
    def cell(m, x, c):
        y, f = m.a(x).chunk(2, -1)
        f = (f + m.v * c).sigmoid()
        return f * c + (1 - f) * y

    return stepped(cell, zeros, a=nn.Linear(6, 24), v=weight(12))


@idiom
def highway_recurrent():
    def cell(m, x, h):
        gate = m.g(torch.cat([x, h], 1)).sigmoid()
        return gate * m.h(torch.cat([x, h], 1)).tanh() + (1 - gate) * h

    return stepped(cell, zeros, g=nn.Linear(18, 12), h=nn.Linear(18, 12))


@idiom
def convolutional_lstm():
    def forward(m, x):
        b, t, _, h, w = x.shape
        state = x.new_zeros(b, 8, h, w), x.new_zeros(b, 8, h, w)
        for k in range(t):
            i, f, o, g = torch.split(m.c(torch.cat([x[:, k], state[0]], 1)), 8, 1)
            memory = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
            state = o.sigmoid() * memory.tanh(), memory
        return m.o(state[0])

    return (
        Net(forward, c=nn.Conv2d(11, 32, 3, padding=1), o=nn.Conv2d(8, 2, 1)),
        torch.randn(2, 3, 3, 6, 6),
        torch.randn(1, 4, 3, 8, 8),
    )


@idiom
def convolutional_gru_learned_start():
    def forward(m, x):
        h = m.start.expand(len(x), -1, *x.shape[3:])
        for k in range(x.shape[1]):
            r, z = m.g(torch.cat([x[:, k], h], 1)).sigmoid().chunk(2, 1)
            h = z * h + (1 - z) * m.n(torch.cat([x[:, k], r * h], 1)).tanh()
        return m.o(h)

    return (
        Net(
            forward,
            start=weight(1, 8, 1, 1),
            g=nn.Conv2d(11, 16, 3, padding=1),
            n=nn.Conv2d(11, 8, 3, padding=1),
            o=nn.Conv2d(8, 2, 1),
        ),
        torch.randn(2, 3, 3, 6, 6),
        torch.randn(1, 4, 3, 8, 8),
    )


@idiom
def sequence_to_sequence_attention():
    def forward(m, source, target):
        memory, h = m.e(m.a(source))
        h, outputs = h[0], []
        for t in range(target.shape[1]):
            scores = torch.bmm(memory, m.w(h).unsqueeze(2)).squeeze(2).softmax(1)
            context = torch.bmm(scores.unsqueeze(1), memory).squeeze(1)
            h = m.d(torch.cat([m.b(target[:, t]), context], 1), h)
            outputs.append(m.o(torch.cat([h, context], 1)))
        return torch.stack(outputs, 1)

    pairs = zip(tokens(), tokens(length=4, other_length=5), strict=True)
    return Net(
        forward,
        a=nn.Embedding(50, 8),
        b=nn.Embedding(50, 9),
        e=nn.GRU(8, 12, batch_first=True),
        d=nn.GRUCell(21, 12),
        w=nn.Linear(12, 12),
        o=nn.Linear(24, 50),
    ), *pairs


@idiom
def pointer_network():
    def forward(m, x):
        memory, (h, c) = m.e(x)
        h, c, own, out = h[0], c[0], m.first.expand(len(x), -1), []
        for _ in range(3):
            h, c = m.d(own, (h, c))
            scores = m.v(torch.tanh(m.a(memory) + m.b(h)[:, None])).squeeze(-1)
            own = (scores.softmax(-1).unsqueeze(-1) * x).sum(1)
            out.append(scores)
        return torch.stack(out, 1)

    return Net(
        forward,
        e=nn.LSTM(6, 12, batch_first=True),
        d=nn.LSTMCell(6, 12),
        first=weight(6),
        a=nn.Linear(12, 10),
        b=nn.Linear(12, 10),
        v=nn.Linear(10, 1),
    ), *sequences()


@idiom
def greedy_decoding_loop():
    def forward(m, x):
        h = m.e(x)[1][0]
        word = torch.zeros(len(x), dtype=torch.long)
        scores = []
        for _ in range(3):
            h = m.d(m.words(word), h)
            scores.append(m.o(h))
            word = scores[-1].argmax(-1)
        return torch.stack(scores, 1)

    return Net(
        forward,
        e=nn.GRU(6, 12, batch_first=True),
        words=nn.Embedding(20, 8),
        d=nn.GRUCell(8, 12),
        o=nn.Linear(12, 20),
    ), *sequences()


@idiom
def temporal_convolution_chomp():
    class Chomp(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.size = size

        def forward(self, x):
            return x[:, :, : -self.size].contiguous()

    def block(i, o, d):
        return nn.Sequential(
            nn.Conv1d(i, o, 3, padding=2 * d, dilation=d),
            Chomp(2 * d),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv1d(o, o, 3, padding=2 * d, dilation=d),
            Chomp(2 * d),
            nn.ReLU(),
        )

    def forward(m, x):
        x = x.transpose(1, 2)
        x = (m.a(x) + m.s(x)).relu()
        return m.o((m.b(x) + x).relu()[:, :, -1])

    return Net(
        forward, a=block(6, 12, 1), s=nn.Conv1d(6, 12, 1), b=block(12, 12, 2), o=nn.Linear(12, 3)
    ), *sequences()


@idiom
def wavenet():
    def forward(m, x):
        h, skips = m.i(x.transpose(1, 2)), 0
        for k in range(3):
            y = m.c[k](F.pad(h, (2**k, 0)))
            a, b = y.chunk(2, 1)
            y = a.tanh() * b.sigmoid()
            skips = skips + m.s[k](y)
            h = h + m.r[k](y)
        return m.o(skips.relu())

    return Net(
        forward,
        i=nn.Conv1d(6, 8, 1),
        o=nn.Conv1d(10, 4, 1),
        c=nn.ModuleList(nn.Conv1d(8, 16, 2, dilation=2**k) for k in range(3)),
        s=nn.ModuleList(nn.Conv1d(8, 10, 1) for _ in range(3)),
        r=nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(3)),
    ), *sequences()


@idiom
def gated_linear_convolution():
    def forward(m, x):
        h = F.glu(m.a(m.words(x).transpose(1, 2)), dim=1)
        return m.o(F.glu(m.b(h), dim=1).transpose(1, 2))

    return Net(
        forward,
        words=nn.Embedding(50, 8),
        a=nn.Conv1d(8, 24, 3, padding=1),
        b=nn.Conv1d(12, 20, 3, padding=1),
        o=nn.Linear(10, 50),
    ), *tokens()


@idiom
def text_cnn_max_over_time():
    def forward(m, x):
        h = m.words(x).unsqueeze(1)
        parts = [F.relu(c(h)).squeeze(3) for c in m.c]
        return m.o(torch.cat([F.max_pool1d(p, p.size(2)).squeeze(2) for p in parts], 1))

    return Net(
        forward,
        words=nn.Embedding(50, 8),
        o=nn.Linear(18, 3),
        c=nn.ModuleList(nn.Conv2d(1, 6, (k, 8)) for k in (2, 3, 4)),
    ), *tokens()


@idiom
def conformer_convolution():
    def forward(m, x):
        h = m.i(x)
        y = F.glu(m.a(m.n(h).transpose(1, 2)), 1)
        y = m.b(F.silu(m.k(m.d(y)))).transpose(1, 2)
        return m.o((h + y).mean(1))

    return Net(
        forward,
        i=nn.Linear(6, 12),
        n=nn.LayerNorm(12),
        a=nn.Conv1d(12, 24, 1),
        d=nn.Conv1d(12, 12, 5, padding=2, groups=12),
        k=nn.BatchNorm1d(12),
        b=nn.Conv1d(12, 12, 1),
        o=nn.Linear(12, 3),
    ), *sequences()


@idiom
def wav2vec_positions():
    def forward(m, x):
        h = m.i(x)
        h = h + F.gelu(m.p(h.transpose(1, 2))[:, :, :-1]).transpose(1, 2)
        return m.o(m.layer(m.n(h)))

    p = nn.utils.parametrizations.weight_norm(nn.Conv1d(16, 16, 4, padding=2, groups=4), dim=2)
    return Net(
        forward,
        i=nn.Linear(6, 16),
        p=p,
        n=nn.LayerNorm(16),
        o=nn.Linear(16, 3),
        layer=nn.TransformerEncoderLayer(16, 4, 24, batch_first=True),
    ), *sequences()


@idiom
def diagonal_state_space():
    def forward(m, x):
        u = m.i(x)
        rate = torch.exp(-F.softplus(m.a))
        steps = torch.arange(x.shape[1], dtype=x.dtype)
        kernel = (m.c * rate[..., None].pow(steps).movedim(-1, 0)).sum(-1).T
        n = 2 * x.shape[1]
        y = torch.fft.irfft(
            torch.fft.rfft(u.transpose(1, 2), n=n) * torch.fft.rfft(kernel, n=n), n=n
        )
        return m.o(F.gelu(y[..., : x.shape[1]].transpose(1, 2) + u * m.d).mean(1))

    return Net(
        forward,
        i=nn.Linear(6, 12),
        a=weight(12, 4),
        c=weight(12, 4),
        d=weight(12),
        o=nn.Linear(12, 3),
    ), *sequences()


@idiom
def selective_scan_mamba():
    def forward(m, x):
        h, gate = m.i(x).chunk(2, -1)
        h = F.silu(m.c(h.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)
        step, b, c = m.x(h).split([3, 4, 4], -1)
        step = F.softplus(m.t(step))
        decay = torch.exp(step.unsqueeze(-1) * -m.a.exp())
        own = step.unsqueeze(-1) * b.unsqueeze(2) * h.unsqueeze(-1)
        state, outputs = x.new_zeros(len(x), 12, 4), []
        for k in range(x.shape[1]):
            state = decay[:, k] * state + own[:, k]
            outputs.append((state * c[:, k].unsqueeze(1)).sum(-1))
        return m.o((torch.stack(outputs, 1) + h * m.d) * F.silu(gate))

    return Net(
        forward,
        i=nn.Linear(6, 24),
        c=nn.Conv1d(12, 12, 3, padding=2, groups=12),
        x=nn.Linear(12, 11),
        t=nn.Linear(3, 12),
        a=weight(12, 4),
        d=weight(12),
        o=nn.Linear(12, 3),
    ), *sequences()


@idiom
def cumulative_decay_scan():
    def forward(m, x):
        log = F.logsigmoid(m.f(x)).cumsum(1)
        h = torch.exp(log) * (m.i(x) * torch.exp(-log)).cumsum(1)
        return m.o(h)

    return Net(forward, f=nn.Linear(6, 12), i=nn.Linear(6, 12), o=nn.Linear(12, 3)), *sequences()


@idiom
def legendre_memory_unit():
    class Memory(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("a", torch.randn(5, 5) / 4)
            self.register_buffer("b", torch.randn(5))
            self.u, self.h, self.o = nn.Linear(18, 1), nn.Linear(23, 12), nn.Linear(12, 3)

        def forward(self, x):
            h, memory = x.new_zeros(len(x), 12), x.new_zeros(len(x), 5)
            for t in range(x.shape[1]):
                own = self.u(torch.cat([x[:, t], h], 1))
                memory = memory @ self.a.T + own * self.b
                h = self.h(torch.cat([x[:, t], h, memory], 1)).tanh()
            return self.o(h)

    return Memory(), *sequences()


@idiom
def echo_state_reservoir():
    class Reservoir(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("w", torch.randn(12, 12) / 5)
            self.register_buffer("v", torch.randn(12, 6))
            self.o = nn.Linear(12, 3)

        def forward(self, x):
            h = x.new_zeros(len(x), 12)
            for t in range(x.shape[1]):
                h = torch.tanh(h @ self.w.T + x[:, t] @ self.v.T)
            return self.o(h)

    return Reservoir(), *sequences()


@idiom
def n_beats_blocks():
    def forward(m, x):
        forecast = 0
        for block in m.blocks:
            h = block["body"](x)
            x = x - block["back"](h)
            forecast = forecast + block["fore"](h)
        return forecast

    def block():
        body = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU())
        return nn.ModuleDict({"body": body, "back": nn.Linear(12, 8), "fore": nn.Linear(12, 4)})

    return (
        Net(forward, blocks=nn.ModuleList(block() for _ in range(2))),
        torch.randn(3, 8),
        torch.randn(2, 8),
    )


@idiom
def series_normalised_and_back():
    def forward(m, x):
        mean, scale = x.mean(1, keepdim=True), x.std(1, keepdim=True) + 1e-5
        h = m.b(m.a(((x - mean) / scale).transpose(1, 2)).relu()).transpose(1, 2)
        return h * scale + mean

    return (
        Net(forward, a=nn.Linear(7, 12), b=nn.Linear(12, 4)),
        torch.randn(2, 7, 6),
        torch.randn(3, 7, 5),
    )


@idiom
def moving_average_decomposition():
    def forward(m, x):
        ends = torch.cat([x[:, :1], x, x[:, -1:]], 1).transpose(1, 2)
        trend = F.avg_pool1d(ends, 3, 1)
        rest = x.transpose(1, 2) - trend
        return m.c((m.a(trend) + m.b(rest)).relu()).transpose(1, 2)

    return (
        Net(forward, a=nn.Linear(7, 12), b=nn.Linear(7, 12), c=nn.Linear(12, 4)),
        torch.randn(2, 7, 6),
        torch.randn(3, 7, 5),
    )


@idiom
def conditional_random_field_forward():
    def forward(m, x):
        scores = m.o(m.r(m.words(x))[0])
        alpha = scores[:, 0] + m.start
        for t in range(1, x.shape[1]):
            alpha = torch.logsumexp(alpha.unsqueeze(2) + m.t, 1) + scores[:, t]
        return scores, torch.logsumexp(alpha, 1)

    return Net(
        forward,
        words=nn.Embedding(50, 8),
        r=nn.GRU(8, 12, batch_first=True),
        o=nn.Linear(12, 5),
        t=weight(5, 5),
        start=weight(5),
    ), *tokens()


@idiom
def character_and_word_embeddings():
    def forward(m, words, letters):
        b, n, k = letters.shape
        own = m.c(m.letters(letters.view(b * n, k)).transpose(1, 2)).amax(2).view(b, n, -1)
        return m.o(m.r(torch.cat([m.words(words), own], -1))[0])

    examples = [(x, torch.randint(0, 30, (*x.shape, 6))) for x in tokens()]
    return Net(
        forward,
        words=nn.Embedding(50, 8),
        letters=nn.Embedding(30, 5),
        c=nn.Conv1d(5, 7, 3),
        r=nn.LSTM(15, 10, batch_first=True, bidirectional=True),
        o=nn.Linear(20, 4),
    ), *examples


@idiom
def bag_of_embeddings():
    net = nn.ModuleDict({"bag": nn.EmbeddingBag(50, 12, mode="mean"), "o": nn.Linear(12, 3)})
    return Net(lambda m, x: m.net["o"](m.net["bag"](x)), net=net), *tokens()


@idiom
def bag_with_offsets():
    def forward(m, words, offsets):
        return m.o(m.bag(words, offsets).relu())

    return (
        Net(forward, bag=nn.EmbeddingBag(50, 12, mode="sum"), o=nn.Linear(12, 3)),
        (torch.randint(0, 50, (9,)), torch.tensor([0, 4, 6])),
        (torch.randint(0, 50, (11,)), torch.tensor([0, 3, 9])),
    )


@idiom
def last_valid_position():
    def forward(m, x, lengths):
        h = m.r(m.words(x))[0]
        return m.o(h[torch.arange(len(x)), lengths - 1])

    (x, y) = tokens()
    return (
        Net(
            forward,
            words=nn.Embedding(50, 8),
            r=nn.GRU(8, 12, batch_first=True),
            o=nn.Linear(12, 3),
        ),
        (x, torch.tensor([7, 4])),
        (y, torch.tensor([5, 9, 3])),
    )


@idiom
def last_valid_gather():
    def forward(m, x, lengths):
        h = m.r(m.words(x))[0]
        index = (lengths - 1).view(-1, 1, 1).expand(-1, 1, h.size(2))
        return m.o(h.gather(1, index).squeeze(1))

    (x, y) = tokens()
    return (
        Net(
            forward,
            words=nn.Embedding(50, 8),
            r=nn.GRU(8, 12, batch_first=True),
            o=nn.Linear(12, 3),
        ),
        (x, torch.tensor([7, 4])),
        (y, torch.tensor([5, 9, 3])),
    )


@idiom
def end_of_text_argmax():
    def forward(m, x):
        h = m.layer(m.words(x))
        return m.n(h)[torch.arange(len(x)), x.argmax(-1)] @ m.p

    return Net(
        forward,
        words=nn.Embedding(50, 16),
        p=weight(16, 5),
        n=nn.LayerNorm(16),
        layer=nn.TransformerEncoderLayer(16, 4, 24, batch_first=True),
    ), *tokens()


@idiom
def recommender_factorisation_machine():
    def forward(m, x):
        h = m.factors(x)
        pairs = (h.sum(1).square() - h.square().sum(1)).sum(1) / 2
        return m.linear(x).sum((1, 2)) + pairs + m.deep(h.flatten(1)).squeeze(1) + m.bias

    return Net(
        forward,
        factors=nn.Embedding(50, 8),
        linear=nn.Embedding(50, 1),
        bias=weight(1),
        deep=nn.Sequential(nn.Linear(56, 12), nn.ReLU(), nn.Linear(12, 1)),
    ), *tokens(other_length=7)


@idiom
def deep_and_cross():
    def forward(m, x):
        h = m.e(x).flatten(1)
        y = h
        for c in m.c:
            y = h * c(y) + y
        return m.o(torch.cat([y, m.d(h)], 1))

    return Net(
        forward,
        e=nn.Embedding(50, 3),
        c=nn.ModuleList(nn.Linear(12, 12) for _ in range(2)),
        d=nn.Sequential(nn.Linear(12, 10), nn.ReLU()),
        o=nn.Linear(22, 1),
    ), *tokens(length=4, other_length=4)
