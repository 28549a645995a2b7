"""Measures what four callers who post 10 MB of JSON over REST do to sixteen gRPC callers of another model."""

import argparse
import json
import multiprocessing
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from scripts.bench.cases import CASES, Case, Load
from scripts.bench.load import Caller
from scripts.bench.ort_loop import Loop
from scripts.bench.process import Server, running
from scripts.bench.requests import PREFIX_BYTES, checked_answer, framed, request

GRPC_CALLERS = Load(connections=16, streams=1)
REST_CALLERS = 4
ROWS, COLUMNS = 500, 1000
QUICK_SECONDS = 2.0
PATH = "/v1/models/wide:predict"


@dataclass(frozen=True)
class Sample:
    """One load of the gRPC callers: calls a second, latencies in microseconds, and bodies posted meanwhile a second."""

    rate: float
    p50: float
    p99: float
    bodies: float
