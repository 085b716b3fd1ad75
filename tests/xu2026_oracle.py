"""The authors' recipe of Spectral Edge Dynamics (arXiv 2603.15678), naively, with numpy alone and nothing of ours.

Dense singular value decompositions in float64 of windows of updates, read from safetensors files by hand.
"""

import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TRUNK = r"attn\.|mlp\."
ATTENTION = r"attn\."
SEARCHES = {
    "tinystories": ("negative", 3, range(-3, 6)),
    "gpt2": ("negative", 3, range(-5, 8)),
    "thesis": ("abs", 1, range(-5, 6)),
}
"""Name of a script -> rule of the peak, degree of the trend, lags."""


def read_weights(path):
    """Tensors of one safetensors file of float32 numbers, in the order of their names."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name in sorted(header):
        first, last = header[name]["data_offsets"]
        assert header[name]["dtype"] == "F32"
        found[name] = np.frombuffer(content[8 + length + first : 8 + length + last], dtype="<f4")
    return found


def read_history(folder, pattern=""):
    """Steps, and the flattened weights whose names match, one row a checkpoint in float64."""
    paths = sorted(Path(folder).glob("step_*.safetensors"), key=lambda path: int(path.stem.split("_")[1]))
    rows = []
    for path in paths:
        weights = read_weights(path)
        rows.append(np.concatenate([weights[name] for name in weights if re.search(pattern, name)]))
    return [int(path.stem.split("_")[1]) for path in paths], np.array(rows, dtype=np.float64)


def read_losses(folder):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["val_loss"] for line in lines}


@dataclass
class Edge:
    """What the recipe gives for one window size."""

    steps: list
    """Of each window's last update."""
    sigma: np.ndarray
    vectors: list
    ranks: list
    """Signal rank of each window; None for none."""
    k: int

    @property
    def ratio(self):
        return self.sigma[:, self.k - 1] / self.sigma[:, self.k]

    def overlaps(self):
        """|<v_k(t), v_k(t - 1)>| (n - 1, W)."""
        pairs = zip(self.vectors[:-1], self.vectors[1:], strict=True)
        return np.array([[abs(float(a @ b)) for a, b in zip(*pair, strict=True)] for pair in pairs])


def edge(steps, weights, size):
    """Windows of ``size`` updates, and the most frequent signal rank among them."""
    updates = weights[1:] - weights[:-1]
    p = weights.shape[1]
    sigmas, vectors, ranks = [], [], []
    for last in range(size - 1, len(updates)):
        _, sigma, rows = np.linalg.svd(updates[last - size + 1 : last + 1], full_matrices=False)
        sigmas.append(sigma)
        vectors.append(rows)
        ranks.append(signal_rank(sigma, p))
    counts = {rank: ranks.count(rank) for rank in sorted(set(ranks) - {None})}
    k = max(counts, key=lambda rank: (counts[rank], -rank))
    return Edge(steps[size:], np.array(sigmas), vectors, ranks, k)


def signal_rank(sigma, p):
    """Position of the largest ratio among those whose lower singular value reaches the Marchenko-Pastur edge."""
    size = len(sigma)
    noise = np.mean(sigma[size // 2 :] ** 2)
    upper = np.sqrt(noise * (1 + np.sqrt(size / p)) ** 2)
    best, found = 0.0, None
    for k in range(1, size):
        if sigma[k] >= upper and sigma[k - 1] / sigma[k] > best:
            best, found = sigma[k - 1] / sigma[k], k
    return found


def plateau(ratio):
    """First and last window around the peak whose ratio is at least 0.85 of it."""
    peak = int(np.argmax(ratio))
    first = last = peak
    while first > 0 and ratio[first - 1] >= 0.85 * ratio[peak]:
        first -= 1
    while last < len(ratio) - 1 and ratio[last + 1] >= 0.85 * ratio[peak]:
        last += 1
    return first, last


def detrended(steps, values, degree):
    time = (np.array(steps) - steps[0]) / (steps[-1] - steps[0])
    return values - np.polyval(np.polyfit(time, values, degree), time)


def correlations(feature, loss, lags):
    """Lag -> r, where more than five pairs are left; a positive lag means that the feature leads."""
    n, found = len(feature), {}
    for lag in lags:
        x, y = (feature[: n - lag], loss[lag:]) if lag >= 0 else (feature[-lag:], loss[: n + lag])
        if len(x) > 5:
            found[lag] = np.corrcoef(x, y)[0, 1]
    return found


def lag_peak(windows, losses, search):
    """Lag of the peak, and r at every lag."""
    rule, degree, lags = SEARCHES[search]
    loss = np.array([losses[step] for step in windows.steps])
    found = correlations(detrended(windows.steps, windows.ratio, degree), detrended(windows.steps, loss, degree), lags)
    best = min(found, key=found.get) if rule == "negative" else max(found, key=lambda lag: abs(found[lag]))
    return best, found


def p_value(windows, losses, search, lag):
    """Effective pairs n (1 - a) / (1 + a) at a lag, and Student's t of r there, whose tail is the authors' p."""
    _, degree, _ = SEARCHES[search]
    loss = np.array([losses[step] for step in windows.steps])
    x, y = detrended(windows.steps, windows.ratio, degree), detrended(windows.steps, loss, degree)
    n = len(x)
    x, y = (x[: n - lag], y[lag:]) if lag >= 0 else (x[-lag:], y[: n + lag])
    a = min(max(_lag_one(x), _lag_one(y), -0.99), 0.99)
    pairs = max(len(x) * (1 - a) / (1 + a), 4)
    r = np.corrcoef(x, y)[0, 1]
    return pairs, r * np.sqrt((pairs - 2) / (1 - r**2))


def _lag_one(values):
    centred = values - values.mean()
    return float((centred[1:] * centred[:-1]).sum() / (centred**2).sum())
