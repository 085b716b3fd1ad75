"""Learning rate, weight decay and validation loss at the checkpoints of a run."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.digests import canonical_digest

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Logged:
    """What the windows of a run of T checkpoints need of its logs; NaN where nothing says it."""

    lr: Floats
    """Learning rate at each checkpoint (T,)."""
    lr_sum: Floats
    """Its sum over the steps of each interval (T - 1,)."""
    weight_decay: Floats
    """Weight decay in each interval (T - 1,)."""
    val_loss: Floats
    """Validation loss at each checkpoint (T,)."""

    @property
    def decay_sum(self) -> Floats:
        """Learning rate times weight decay, summed over the steps of each interval (T - 1,)."""
        return self.lr_sum * self.weight_decay

    @property
    def key(self) -> str:
        """Hash of all of them."""
        parts = (self.lr, self.lr_sum, self.weight_decay, self.val_loss)
        return canonical_digest([values.tobytes().hex() for values in parts])[:16]
