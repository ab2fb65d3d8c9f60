"""`portable worker`: lends this machine's memory and cores to another one's models."""

from portable.worker.config import WorkerConfig
from portable.worker.run import run

__all__ = ["WorkerConfig", "run"]
