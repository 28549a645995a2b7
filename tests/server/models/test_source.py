"""What a look at real folders finds, and what it does when one is not there."""

from collections.abc import Mapping
from pathlib import Path
from threading import Event, Thread

import pytest

from headrace_server.config.run import ModelConfig
from headrace_server.models.source import Source, versions_under

Seen = list[tuple[str, dict[int, Path]]]

PATIENCE = 10.0  # seconds: far more than it ever takes


class Looks:
    """A source, and what it has aspired to so far."""

    def __init__(self, *models: ModelConfig, poll_seconds: float = 1) -> None:
        self.seen: Seen = []
        self.told = Event()
        self.source = Source(models, poll_seconds, self._aspire)

    def look(self) -> Seen:
        """What one look told."""
        self.seen.clear()
        self.source.poll()
        return list(self.seen)

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self.source._thread.is_alive()

    def _aspire(self, name: str, versions: Mapping[int, Path]) -> None:
        self.seen.append((name, dict(versions)))
        self.told.set()


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
    def test_a_name_that_is_none(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).mkdir()

        assert versions_under(tmp_path) == {}

    def test_a_name_that_is_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "1").mkdir()
        Path(str(tmp_path) + "/\udcff").mkdir()

        assert versions_under(tmp_path).keys() == {1}

    def test_a_file_counts_as_a_folder_does(self, tmp_path: Path) -> None:
        (tmp_path / "4").touch()

        assert versions_under(tmp_path) == {4: tmp_path / "4"}

    def test_of_two_with_one_number_the_last_in_byte_order_counts(self, tmp_path: Path) -> None:
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

    def test_models_are_told_in_their_order(self, tmp_path: Path) -> None:
        (tmp_path / "1").mkdir()
        looks = Looks(ModelConfig("b", tmp_path), ModelConfig("a", tmp_path))

        assert [name for name, _ in looks.look()] == ["b", "a"]

    def test_a_base_path_that_is_not_there_spoils_the_whole_look(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        good, bad = tmp_path / "good", tmp_path / "bad"
        (good / "1").mkdir(parents=True)
        looks = Looks(ModelConfig("good", good), ModelConfig("bad", bad))
        complaint = (
            "FileSystemStoragePathSource encountered a filesystem access error: "
            f"Could not find base path {bad} for servable bad with error No such file or directory"
        )
        assert looks.look() == []
        assert looks.look() == []
        assert caplog.messages == [complaint]

        (bad / "3").mkdir(parents=True)
        assert looks.look() == [("good", {1: good / "1"}), ("bad", {3: bad / "3"})]
        assert caplog.messages == [complaint]

        (bad / "3").rmdir()
        bad.rmdir()
        assert looks.look() == []
        assert caplog.messages == [complaint, complaint]

    def test_a_base_path_that_is_a_file(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        file = tmp_path / "m"
        file.touch()

        assert Looks(ModelConfig("m", file)).look() == []
        assert caplog.messages[0].endswith(f"Could not find base path {file} for servable m with error Not a directory")

    def test_a_base_path_that_can_be_none(self, caplog: pytest.LogCaptureFixture) -> None:
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
        assert "servable b found" in caplog.messages[0]


class TestThread:
    def test_it_looks_at_once_and_again_until_stopped(self, tmp_path: Path) -> None:
        looks = Looks(ModelConfig("m", tmp_path), poll_seconds=0.001)
        looks.source.start()
        assert looks.told.wait(PATIENCE)
        looks.told.clear()
        assert looks.told.wait(PATIENCE)
        looks.source.stop()

        assert not looks.alive

    def test_it_looks_again_after_a_look_that_failed(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        looks = Looks(poll_seconds=0.001)
        failures = [RuntimeError("first"), RuntimeError("second")]

        def aspire(name: str, versions: Mapping[int, Path]) -> None:
            if failures:
                raise failures.pop(0)
            looks._aspire(name, versions)

        looks.source = Source([ModelConfig("m", tmp_path)], 0.001, aspire)
        looks.source.start()
        assert looks.told.wait(PATIENCE)
        looks.source.stop()

        assert [line for line in caplog.messages if "RuntimeError" in line] == [
            "the base paths could not be looked at: RuntimeError('first')",
            "the base paths could not be looked at: RuntimeError('second')",
        ]

    def test_zero_looks_once(self, tmp_path: Path) -> None:
        looks = Looks(ModelConfig("m", tmp_path), poll_seconds=0)
        looks.source.start()
        assert looks.told.wait(PATIENCE)
        looks.source.stop()

        assert not looks.alive
        assert looks.seen == [("m", {})]

    def test_a_negative_period_never_looks(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        looks = Looks(ModelConfig("m", tmp_path), poll_seconds=-1)
        looks.source.start()

        assert not looks.alive
        looks.source.stop()
        assert looks.seen == []
        assert caplog.messages == [
            "--file_system_poll_wait_seconds is negative: no version is ever looked for, nor any found"
        ]

    def test_stopping_does_not_wait_for_the_next_look(self, tmp_path: Path) -> None:
        looks = Looks(ModelConfig("m", tmp_path), poll_seconds=3600)
        looks.source.start()
        assert looks.told.wait(PATIENCE)
        stopping = Thread(target=looks.source.stop)
        stopping.start()
        stopping.join(PATIENCE)

        assert not stopping.is_alive()
