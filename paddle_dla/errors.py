"""What commands that run a model on data turn into one line and exit code 1. No framework."""

from __future__ import annotations

from paddle_dla.config.errors import ConfigError
from paddle_dla.data.errors import DataError
from paddle_dla.engines.base import EngineError
from paddle_dla.exporting.errors import ExportError
from paddle_dla.launching.meeting import LostRankError
from paddle_dla.storage.errors import CheckpointError

EXPECTED_ERRORS = (CheckpointError, ConfigError, DataError, EngineError, ExportError, LostRankError, ValueError)
