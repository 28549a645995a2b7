"""What a source finds in real folders, and what it does if one is missing."""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from headrace_server.config.model_config import Latest, ModelConfig, Specific, VersionPolicy
from headrace_server.models import source
from headrace_server.models.base_paths import BasePath, versions_under
from headrace_server.models.source import LISTED_AT_A_LOOK, Source

Seen = list[tuple[str, dict[int, Path]]]

PATIENCE = 10.0  # seconds; far more than it ever takes


@contextmanager
def unlistable(folder: Path) -> Iterator[None]:
    """A folder that can be entered but not listed, even by root: listing it fails, in this process only."""
    listdir = os.listdir

    def denied(path: Any = ".") -> list[str]:
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listdir(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "listdir", denied)
        yield


class Looks:
    """A source, and the versions that it has aspired so far."""

    def __init__(self, *models: ModelConfig, poll_seconds: float = 1) -> None:
        self.seen: Seen = []
        self.looked = Event()
        self.source = Source(poll_seconds, self._aspire)
        self.source.update(models)

    def look(self) -> Seen:
        """What one scan reported."""
        self.seen.clear()
        self.source.poll()
        return list(self.seen)

    @property
    def alive(self) -> bool:
        """Whether the source's thread runs."""
        return self.source._thread.is_alive()

    def _aspire(self, name: str, versions: Mapping[int, Path]) -> None:
        self.seen.append((name, dict(versions)))
        self.looked.set()


class TestVersions:
    @pytest.mark.parametrize(
        ("name", "version"),
        [
            ("1", 1),
            ("0", 0),
            ("00000123", 123),
            ("-7", -7),
            ("+7", 7),
            (" 8\t", 8),
            ("9223372036854775807", 2**63 - 1),
            ("-9223372036854775808", -(2**63)),
        ],
    )
    def test_a_name_that_is_a_number(self, tmp_path: Path, name: str, version: int) -> None:
        (tmp_path / name).mkdir()

        assert versions_under(tmp_path) == {version: tmp_path / name}

    @pytest.mark.parametrize(
        "name",
        [
            "tmp-5",
            "5.tmp",
            "v1",
            "1.0",
            "1e3",
            "0x10",
            "1_000",
            "--1",
            "+ 1",
            "9223372036854775808",
            "\u0661",
            "\u00a01",
        ],
    )
    def test_an_invalid_version_number(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).mkdir()

        assert versions_under(tmp_path) == {}

    def test_a_name_that_is_not_unicode(self, tmp_path: Path) -> None:
        (tmp_path / "1").mkdir()
        Path(str(tmp_path) + "/\udcff").mkdir()

        assert versions_under(tmp_path).keys() == {1}

    def test_a_file_counts_like_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "4").touch()

        assert versions_under(tmp_path) == {4: tmp_path / "4"}

    def test_of_two_names_with_one_number_the_last_in_byte_order_counts(self, tmp_path: Path) -> None:
        for name in ("01", "1", "001", "+1"):
            (tmp_path / name).mkdir()

        assert versions_under(tmp_path) == {1: tmp_path / "1"}


class TestPoll:
    def test_the_highest_version_is_aspired(self, tmp_path: Path) -> None:
        looks = Looks(ModelConfig("m", tmp_path))
        for name in ("9", "10", "2", "tmp-11"):
            (tmp_path / name).mkdir()
        assert looks.look() == [("m", {10: tmp_path / "10"})]

        (tmp_path / "tmp-11").rename(tmp_path / "11")
        assert looks.look() == [("m", {11: tmp_path / "11"})]

        (tmp_path / "11").rmdir()
        assert looks.look() == [("m", {10: tmp_path / "10"})]

    def test_models_are_reported_in_order(self, tmp_path: Path) -> None:
        (tmp_path / "1").mkdir()
        looks = Looks(ModelConfig("b", tmp_path), ModelConfig("a", tmp_path))

        assert [name for name, _ in looks.look()] == ["b", "a"]

    def test_a_missing_base_path_is_named_and_delays_no_other(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        good, bad = tmp_path / "good", tmp_path / "bad"
        (good / "1").mkdir(parents=True)
        looks = Looks(ModelConfig("bad", bad), ModelConfig("good", good))
        complaint = (
            "FileSystemStoragePathSource encountered a filesystem access error: "
            f"Could not find base path {bad} for servable bad with error No such file or directory"
        )
        assert looks.look() == [("good", {1: good / "1"})]
        assert looks.look() == [("good", {1: good / "1"})]
        assert caplog.messages == [complaint]

        (bad / "3").mkdir(parents=True)
        assert looks.look() == [("bad", {3: bad / "3"}), ("good", {1: good / "1"})]
        assert caplog.messages == [complaint]

        (bad / "3").rmdir()
        bad.rmdir()
        assert looks.look() == [("good", {1: good / "1"})]
        assert caplog.messages == [complaint, complaint]

    @pytest.mark.parametrize("broken", ["missing", "a file", "a loop of links", "a null byte", "too long"])
    def test_an_error_in_one_base_path_does_not_affect_the_others(self, tmp_path: Path, broken: str) -> None:
        (tmp_path / "good" / "1").mkdir(parents=True)
        (tmp_path / "file").touch()
        (tmp_path / "loop").symlink_to("loop")
        bad = {
            "missing": tmp_path / "missing",
            "a file": tmp_path / "file",
            "a loop of links": tmp_path / "loop",
            "a null byte": tmp_path / "a\0b",
            "too long": tmp_path / ("x" * 300),
        }[broken]
        looks = Looks(ModelConfig("bad", bad), ModelConfig("good", tmp_path / "good"))

        assert looks.look() == [("good", {1: tmp_path / "good" / "1"})]

    @pytest.mark.parametrize(
        ("policy", "seen"),
        [
            (Specific((1,)), [1]),
            (Specific((1, 9)), [1]),
            (Specific((9,)), None),
            (Latest(1), None),
        ],
    )
    def test_a_base_path_that_cannot_be_listed_has_the_requested_versions(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, policy: VersionPolicy, seen: list[int] | None
    ) -> None:
        """TF Serving's AspireSpecificVersionsFastPath does not list the folder."""
        (tmp_path / "m" / "1").mkdir(parents=True)
        looks = Looks(ModelConfig("m", tmp_path / "m", policy))
        with unlistable(tmp_path / "m"):
            found = looks.look()

        assert found == ([] if seen is None else [("m", {version: tmp_path / "m" / str(version) for version in seen})])
        if seen is None:
            assert caplog.messages[0].endswith(
                f"base path {tmp_path / 'm'} for servable m with error Permission denied"
            )

    def test_a_base_path_that_is_a_file(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        file = tmp_path / "m"
        file.touch()

        assert Looks(ModelConfig("m", file)).look() == []
        assert caplog.messages[0].endswith(f"Could not find base path {file} for servable m with error Not a directory")

    def test_an_invalid_base_path(self, caplog: pytest.LogCaptureFixture) -> None:
        assert Looks(ModelConfig("m", Path("/m\0n"))).look() == []
        assert caplog.messages[0].endswith(
            "Could not find base path /m\0n for servable m with error embedded null byte"
        )

    def test_a_base_path_without_versions_aspires_to_none(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        looks = Looks(ModelConfig("m", tmp_path))
        (tmp_path / "latest").mkdir()

        assert looks.look() == [("m", {})]
        assert looks.look() == [("m", {})]
        assert caplog.messages == [
            f"No versions of servable m found under base path {tmp_path}. "
            "Did you forget to name your leaf directory as a number (eg. '/1/')?"
        ]

    def test_every_model_without_versions_is_named(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        Looks(ModelConfig("a", tmp_path), ModelConfig("b", tmp_path)).look()

        assert "servable a found" in caplog.messages[0]
        assert "servable b found" in caplog.messages[1]


class TestManyModels:
    COUNT = 300

    @pytest.fixture
    def looks(self, tmp_path: Path) -> Looks:
        names = [f"m{index}" for index in range(self.COUNT)]
        for name in names:
            (tmp_path / name / "1").mkdir(parents=True)
            os.utime(tmp_path / name, (1, 1))  # long ago, so that the source trusts the modification time
        looks = Looks(*[ModelConfig(name, tmp_path / name) for name in names])
        assert len(looks.look()) == self.COUNT
        return looks

    def test_unchanged_base_paths_are_listed_in_turns(self, looks: Looks) -> None:
        every = {f"m{index}" for index in range(self.COUNT)}
        turns = [{name for name, _ in looks.look()} for _ in range(self.COUNT // LISTED_AT_A_LOOK)]

        assert {len(turn) for turn in turns} == {LISTED_AT_A_LOOK}
        assert set.union(*turns) == every

    def test_a_changed_base_path_is_listed_at_once(self, looks: Looks, tmp_path: Path) -> None:
        for name in ("m0", "m150", "m299"):
            (tmp_path / name / "2").mkdir()

        found = dict(looks.look())
        assert [list(found[name]) for name in ("m0", "m150", "m299")] == [[2]] * 3

    def test_a_scan_checks_a_bounded_number_of_base_paths(
        self, looks: Looks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(source, "ASKED_AT_A_LOOK", 100)
        asked: list[str] = []

        def ask(path: BasePath) -> bool:
            asked.append(path.model.name)
            return False

        monkeypatch.setattr(BasePath, "may_have_changed", ask)
        for _ in range(3):
            before = len(asked)
            looks.look()
            assert len(asked) - before <= 100

        monkeypatch.undo()
        monkeypatch.setattr(source, "ASKED_AT_A_LOOK", 100)
        (tmp_path / "m299" / "2").mkdir()
        found = [dict(looks.look()).get("m299") for _ in range(3)]
        assert {2: tmp_path / "m299" / "2"} in found

    def test_the_first_scan_lists_all_base_paths(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a period of 0 there is no second scan."""
        monkeypatch.setattr(source, "ASKED_AT_A_LOOK", 10)
        monkeypatch.setattr(source, "LISTED_AT_A_LOOK", 10)
        names = [f"m{index}" for index in range(self.COUNT)]
        looks = Looks(*[ModelConfig(name, tmp_path) for name in names])

        assert [name for name, _ in looks.look()] == names

    def test_only_new_base_paths_are_listed_after_an_update(
        self, looks: Looks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(source, "ASKED_AT_A_LOOK", 10)
        monkeypatch.setattr(source, "LISTED_AT_A_LOOK", 0)
        models = [ModelConfig(f"m{index}", tmp_path / f"m{index}") for index in range(self.COUNT)]
        models[250] = ModelConfig("m250", tmp_path / "m7")
        looks.source.update([*models, ModelConfig("new", tmp_path / "m8")])

        assert looks.look() == [("m250", {1: tmp_path / "m7" / "1"}), ("new", {1: tmp_path / "m8" / "1"})]
        assert looks.look() == []

    def test_a_wanted_base_path_is_listed_out_of_turn(
        self, looks: Looks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(source, "ASKED_AT_A_LOOK", 10)
        monkeypatch.setattr(source, "LISTED_AT_A_LOOK", 0)
        (tmp_path / "m250" / "2").mkdir()
        looks.seen.clear()
        looks.source.poll(["m250"])

        assert looks.seen == [("m250", {2: tmp_path / "m250" / "2"})]

    def test_a_base_path_that_has_just_changed_is_listed_again(self, looks: Looks, tmp_path: Path) -> None:
        """A second change within one tick of the clock would not be visible."""
        (tmp_path / "m250" / "2").mkdir()
        looks.look()
        for _ in range(3):
            assert "m250" in dict(looks.look())

    def test_a_removed_base_path_affects_only_its_model(
        self, looks: Looks, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "m250" / "1").rmdir()
        (tmp_path / "m250").rmdir()
        looks.look()
        looks.look()

        assert [message for message in caplog.messages if "m250" in message] == caplog.messages
        assert len(caplog.messages) == 1


class TestThread:
    def test_a_source_scans_at_once_and_again_until_stopped(self, tmp_path: Path) -> None:
        looks = Looks(ModelConfig("m", tmp_path), poll_seconds=0.001)
        looks.source.start()
        assert looks.looked.wait(PATIENCE)
        looks.looked.clear()
        assert looks.looked.wait(PATIENCE)
        looks.source.stop()

        assert not looks.alive

    def test_a_source_scans_again_after_a_failed_scan(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        looks = Looks(poll_seconds=0.001)
        failures = [RuntimeError("first"), RuntimeError("second")]

        def aspire(name: str, versions: Mapping[int, Path]) -> None:
            if failures:
                raise failures.pop(0)
            looks._aspire(name, versions)

        looks.source = Source(0.001, aspire)
        looks.source.update([ModelConfig("m", tmp_path)])
        looks.source.start()
        assert looks.looked.wait(PATIENCE)
        looks.source.stop()

        assert [line for line in caplog.messages if "RuntimeError" in line] == [
            "the base paths could not be scanned: RuntimeError('first')",
            "the base paths could not be scanned: RuntimeError('second')",
        ]

    def test_a_period_of_zero_scans_once(self, tmp_path: Path) -> None:
        looks = Looks(ModelConfig("m", tmp_path), poll_seconds=0)
        looks.source.start()
        assert looks.looked.wait(PATIENCE)
        looks.source.stop()

        assert not looks.alive
        assert looks.seen == [("m", {})]

    def test_a_negative_period_never_scans(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        looks = Looks(ModelConfig("m", tmp_path), poll_seconds=-1)
        looks.source.start()

        assert not looks.alive
        looks.source.stop()
        assert looks.seen == []
        assert caplog.messages == [
            "--file_system_poll_wait_seconds is negative: the server never looks for versions, and finds none"
        ]

    def test_stopping_does_not_wait_for_the_next_scan(self, tmp_path: Path) -> None:
        looks = Looks(ModelConfig("m", tmp_path), poll_seconds=3600)
        looks.source.start()
        assert looks.looked.wait(PATIENCE)
        stopping = Thread(target=looks.source.stop)
        stopping.start()
        stopping.join(PATIENCE)

        assert not stopping.is_alive()
