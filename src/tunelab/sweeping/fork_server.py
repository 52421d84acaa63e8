"""Imported by the server that jobs are forked from, and by nothing else: leaves the sweep's terminal, imports the rest.

What is sent to the sweep's group of processes (a hang-up, a time limit) would end the server first, and with it all
news of the jobs.
"""

import contextlib
import os

with contextlib.suppress(PermissionError):
    os.setsid()

import torch.utils.tensorboard  # noqa: F401  # pyright: ignore[reportUnusedImport]

import tunelab.sweeping.job_process  # noqa: F401  # pyright: ignore[reportUnusedImport]
