"""What every training script shares: options, process set-up, exact data order, randomness, checkpoints, logs.

A run is a pure function of its options: the batch of a step, its noise and its masks are computed from
(seed, step, rank, stream), never from the state of a global generator. So a run that was interrupted and resumed
equals one that was not, bit for bit on the CPU.
"""

from autolink.training.checkpoints import Ema, load_checkpoint, save_checkpoint
from autolink.training.logs import WHEN_DIVERGED, Diverged, RunLog, require_finite, require_finite_weights
from autolink.training.notes import begun, changed, note_of, require_same
from autolink.training.options import (
    CHECKPOINT,
    CONFIG,
    DATA_OPTIONS,
    MAY_CHANGE,
    MODEL_OPTIONS,
    SMALL_SIDE,
    SMALL_WIDTH,
    RunOptions,
    as_json,
    due,
    logger,
)
from autolink.training.order import (
    FEISTEL_ROUNDS,
    HELD_ORDER,
    PREFETCHED,
    SeededBatches,
    endless_loader,
    global_draws,
    seeded_generator,
    shuffled,
    to_network,
)
from autolink.training.pace import StepBar, duration, forecast, step_times, watching
from autolink.training.starting import decided, local_main_first, on_processor, processes, say_what_was_decided, start

__all__ = [
    "CHECKPOINT",
    "CONFIG",
    "DATA_OPTIONS",
    "FEISTEL_ROUNDS",
    "HELD_ORDER",
    "MAY_CHANGE",
    "MODEL_OPTIONS",
    "PREFETCHED",
    "SMALL_SIDE",
    "SMALL_WIDTH",
    "WHEN_DIVERGED",
    "Diverged",
    "Ema",
    "RunLog",
    "RunOptions",
    "SeededBatches",
    "StepBar",
    "as_json",
    "begun",
    "changed",
    "decided",
    "due",
    "duration",
    "endless_loader",
    "forecast",
    "global_draws",
    "load_checkpoint",
    "local_main_first",
    "logger",
    "note_of",
    "on_processor",
    "processes",
    "require_finite",
    "require_finite_weights",
    "require_same",
    "save_checkpoint",
    "say_what_was_decided",
    "seeded_generator",
    "shuffled",
    "start",
    "step_times",
    "to_network",
    "watching",
]
