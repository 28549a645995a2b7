"""TFRecord files of PredictionLog: warm-up files, and the logs of requests."""

from collections.abc import Iterable
from pathlib import Path

from headrace_protos import PredictionLog, PredictRequest
from headrace_server.models.recorded import WARMUP_FILE
from headrace_server.models.tfrecord import frame, read_records


def predict_log(request: PredictRequest) -> bytes:
    """A record of one Predict."""
    log = PredictionLog()
    log.predict_log.request.CopyFrom(request)
    return log.SerializeToString()


def write_warmup(folder: Path, records: Iterable[bytes]) -> Path:
    """Gives the version in a folder a warm-up file."""
    file = folder / WARMUP_FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(b"".join(map(frame, records)))
    return file


def read_logs(files: Iterable[Path]) -> list[PredictionLog]:
    """What is in some files, in the order of their names."""
    logs: list[PredictionLog] = []
    for file in sorted(files):
        with file.open("rb") as opened:
            logs += map(PredictionLog.FromString, read_records(opened))
    return logs
