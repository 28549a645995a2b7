"""TFRecord files of PredictionLog: warm-up files and request logs."""

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
    """Writes a warm-up file into a version's folder."""
    file = folder / WARMUP_FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(b"".join(map(frame, records)))
    return file


def read_logs(files: Iterable[Path]) -> list[PredictionLog]:
    """The records of some files, in the order of their names."""
    logs: list[PredictionLog] = []
    for file in sorted(files):
        with file.open("rb") as opened:
            logs += map(PredictionLog.FromString, read_records(opened))
    return logs
