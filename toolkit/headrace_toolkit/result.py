"""The result of a run: the report, the kept model, and its publication under a base path."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headrace_server.backends.independence import Finding, Verdict
from headrace_server.backends.signature import Signature
from headrace_server.config.model_toml import MODEL_FILE as MODEL_OPTIONS_FILE
from headrace_server.config.model_toml import read_model_options
from headrace_toolkit.data import Data
from headrace_toolkit.errors import ToolkitError
from headrace_toolkit.graph import DATA_FILE
from headrace_toolkit.grounds import Grounds, Messages
from headrace_toolkit.machine import this_machine, versions
from headrace_toolkit.profile import profile_of
from headrace_toolkit.publish import CARD_FILE, PROFILE_FILE, Contents, publish
from headrace_toolkit.recipe import Recipe
from headrace_toolkit.report import Line, Report, Rows
from headrace_toolkit.sources.base import Origin
from headrace_toolkit.sources.files import sha256_of
from headrace_toolkit.specs import write_spec
from headrace_toolkit.work_folder import WorkFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a run.

    Attributes:
        report: All measurements.
        failed: The reason why nothing may be published; empty if the limits are met.
        model: The file of the kept model. It is removed with this object.
        signature: The model's signature.
        rows_verdict: Whether rows of several callers may share a batch of it, according to the server's own trial.
        labels: The classes by index, if the source knows them.
        grounds: The basis of the judgement.
        recipe: The recipe that was carried out.
        keep: Keeps the files alive.
    """

    report: Report
    failed: str
    model: Path
    signature: Signature
    rows_verdict: Verdict
    labels: tuple[str, ...]
    grounds: Grounds
    recipe: Recipe
    keep: WorkFolder

    def table(self) -> str:
        """The report for a terminal or a notebook."""
        return self.report.table()

    def publish(self, base: str | Path, version: int = 0, *, key: str | Path = "") -> Path:
        """Puts the model into a base path as a new version, with its card and the profile of its inputs.

        Args:
            base: The model's base path.
            version: The version's number; 0 means one more than the highest.
            key: The PEM file of a private key that signs the version; empty means no signature.

        Returns:
            The version's folder.

        Raises:
            ToolkitError: The limits are not met, `model.toml` turns on batching that the model does not allow, or the
                base path cannot be written.
        """
        if self.failed:
            raise ToolkitError(self.failed)
        base = Path(base)
        self._check_model_options(base)
        files = {self.model.name: self.model}
        if (self.model.parent / DATA_FILE).exists():
            files[DATA_FILE] = self.model.parent / DATA_FILE
        documents = {CARD_FILE: self.card(base.name)}
        if not self.grounds.random:
            documents[PROFILE_FILE] = profile_of(self.grounds.measured)
        contents = Contents(
            files=files,
            documents=documents,
            model_options=self._model_options(),
            key=Path(key) if key else None,
        )
        return publish(base, contents, version)

    def card(self, name: str) -> dict[str, Any]:
        """The origin of the version, for `card.json`, without names of folders, users or hosts.

        Args:
            name: The model's name.
        """
        files = [self.model, *([data] if (data := self.model.parent / DATA_FILE).exists() else [])]
        return {
            "model": name,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": dict(versions()),
            "files": {file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in files},
            "signature": {
                "inputs": {alias: write_spec(spec) for alias, spec in self.signature.inputs.items()},
                "outputs": {alias: write_spec(spec) for alias, spec in self.signature.outputs.items()},
            },
            "rows": {
                "finding": str(self.rows_verdict.finding),
                "reason": self.rows_verdict.reason,
                "runs": self.rows_verdict.runs,
            },
            "recipe": self.recipe.text,
            "report": self.report.document(),
        }

    def _model_options(self) -> str:
        """The content of `model.toml`; empty if there is none."""
        if self.rows_verdict.finding is Finding.DEPENDENT:
            return "[batching]\nenabled = false\n"
        if not self.labels or not self._has_scores():
            return ""
        labels = ", ".join(json.dumps(label, ensure_ascii=False) for label in self.labels)
        return f'[signatures.serving_default]\nmethod = "classify"\nlabels = [{labels}]\n'

    def _has_scores(self) -> bool:
        """Whether an output has one float for each label."""
        shapes = [spec.shape for spec in self.signature.outputs.values() if spec.array_dtype.kind == "f"]
        return any(len(shape) == 2 and shape[1] == len(self.labels) for shape in shapes)

    def _check_model_options(self, base: Path) -> None:
        """Refuses a base path whose `model.toml` allows batching for a model whose rows influence each other."""
        if self.rows_verdict.finding is not Finding.DEPENDENT or not (base / MODEL_OPTIONS_FILE).exists():
            return
        options = read_model_options(base)
        if options.batching is not None and options.batched is not False:
            raise ToolkitError(
                f"{base / MODEL_OPTIONS_FILE} turns on batching, but the rows of this model influence each other: "
                f"set [batching] enabled = false there"
            )


def report_of(source: Origin, grounds: Grounds, lines: Iterable[Line], messages: Messages) -> Report:
    """The report of a run, without its verdict; the source's line comes before the variants'.

    Args:
        source: The name of the file or the object that the run began with.
        grounds: The rows and the answers that everything was compared with.
        lines: The lines of the variants, in order.
        messages: The collected warnings and notes.
    """
    score = grounds.metric.score(grounds.expected)
    first = Line(name=f"source: {source}", metric=score, interval=grounds.metric.interval(score), kept=True)
    return Report(
        source=source,
        machine=this_machine(),
        metric=grounds.metric.name,
        share=grounds.metric.share,
        rows=rows_of(grounds.measured),
        calibration=None if grounds.calibration is None else rows_of(grounds.calibration),
        training=None if grounds.training is None else rows_of(grounds.training),
        lines=(first, *lines),
        warnings=tuple(messages.warnings),
        notes=tuple(messages.notes),
    )


def rows_of(data: Data) -> Rows:
    """Rows, as described in a report."""
    return Rows(name=data.name, sha256=data.sha256, count=len(data))


def too_far(grounds: Grounds, metric: float | None, allowed: float) -> str:
    """The reason why a model with this metric loses too much to be published; empty if it does not."""
    drop = grounds.drop(metric)
    if drop <= allowed:
        return ""
    unit = "points" if grounds.metric.share else "percent"
    return f"{grounds.metric.name} is {drop:.2f} {unit} lower, more than {allowed:g}: nothing is published"
