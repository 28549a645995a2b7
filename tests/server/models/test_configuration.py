"""Successive configurations: which ones are refused, and that a refused one changes nothing."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread

import pytest
from google.protobuf import text_format

from headrace_batching import BatchThreads
from headrace_protos import POOL, Code, ModelConfig, ModelServerConfig
from headrace_server.config.model_list import single_model
from headrace_server.errors import LoadError, ServingError
from headrace_server.models.config_poll import ConfigPoll
from headrace_server.models.configuration import Configuration
from headrace_server.models.manager import Manager
from headrace_server.models.servable import Servable
from headrace_server.models.source import Source
from headrace_server.models.version_policy import State
from tests.support.running import eventually

from .backend import PATIENCE, Adder

LOOK_OFTEN = 0.005


def parse(text: str) -> ModelServerConfig:
    return text_format.Parse(text, ModelServerConfig(), descriptor_pool=POOL)


def config(*models: str) -> ModelServerConfig:
    """A configuration of models, each in text format."""
    return parse("model_config_list { " + " ".join(f"config {{ {model} }}" for model in models) + " }")


class House:
    """A manager, a source and a configuration of models below one folder; version 13 of a model fails to load."""

    def __init__(self, root: Path, threads: BatchThreads, *, to_unavailable: bool = False) -> None:
        self.root = root
        self._threads = threads
        self.manager = Manager(self._load)
        self.source = Source(LOOK_OFTEN, self.manager.aspire, self.manager.wake)
        self.logged: list[str] = []
        self.configuration = Configuration(
            self.manager, self.source, self._prepare_logging, labels_to_unavailable=to_unavailable
        )
        self.manager.start()

    def make(self, name: str, *versions: int) -> None:
        for version in versions:
            (self.root / name / str(version)).mkdir(parents=True)

    def model(self, name: str, more: str = "") -> str:
        """A model in text format."""
        return f'name: "{name}" base_path: "{self.root / name}" model_platform: "tensorflow" {more}'

    def start(self, *models: str) -> None:
        self.configuration.start(config(*models))

    def apply(self, *models: str) -> None:
        self.configuration.apply(config(*models))

    def refused(self, *models: str) -> tuple[Code, str]:
        return self.refused_whole(config(*models))

    def refused_whole(self, message: ModelServerConfig) -> tuple[Code, str]:
        with pytest.raises(ServingError) as raised:
            self.configuration.apply(message)
        return raised.value.code, raised.value.message

    def served(self, name: str) -> list[int]:
        return [s.version for s in self.manager.statuses(name) if s.state is State.AVAILABLE]

    def labelled(self, name: str, label: str) -> int:
        with self.manager.servable(name, label) as servable:
            return servable.version

    def _prepare_logging(self, models: Iterable[ModelConfig]) -> Callable[[], None]:
        names = [model.name for model in models if model.HasField("logging_config")]
        if "unloggable" in names:
            raise ServingError(Code.INVALID_ARGUMENT, "not to be logged")
        return partial(setattr, self, "logged", names)

    def stop(self) -> None:
        self.source.stop()
        self.manager.stop()

    def _load(self, name: str, version: int, path: Path) -> Servable:
        assert path == self.root / name / str(version)
        if version == 13:
            raise LoadError(Code.DATA_LOSS, f"{name} is broken")
        return Servable(name, version, Adder(), self._threads, None)


@contextmanager
def housed(root: Path, *, to_unavailable: bool = False) -> Iterator[House]:
    threads = BatchThreads(1)
    threads.start()
    house = House(root, threads, to_unavailable=to_unavailable)
    yield house
    house.stop()
    threads.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with housed(tmp_path) as house:
        yield house


class TestLogging:
    def test_the_last_configuration_decides_what_is_logged(self, house: House) -> None:
        house.make("a", 1)
        house.start(house.model("a", "logging_config {}"))
        assert house.logged == ["a"]
        house.apply(house.model("a"))
        assert house.logged == []

    def test_a_configuration_that_cannot_be_logged_changes_nothing(self, house: House) -> None:
        house.make("a", 1)
        house.make("unloggable", 1)
        house.start(house.model("a", "logging_config {}"))
        assert house.refused(house.model("unloggable", "logging_config {}")) == (
            Code.INVALID_ARGUMENT,
            "not to be logged",
        )
        assert house.served("a") == [1]
        assert house.logged == ["a"]

    def test_labels_that_are_refused_leave_the_logging_as_it_was(self, house: House) -> None:
        house.make("a", 1)
        house.start(house.model("a", "logging_config {}"))
        house.refused(house.model("a", 'version_labels { key: "canary" value: 9 }'))
        assert house.logged == ["a"]


class TestLists:
    def test_the_flags_for_one_model_are_a_list_of_one(self) -> None:
        assert single_model("m", "/models/m") == config('name: "m" base_path: "/models/m" model_platform: "tensorflow"')

    def test_all_listed_models_are_served(self, house: House) -> None:
        house.make("a", 1)
        house.make("b", 7, 8)
        house.start(house.model("a"), house.model("b"))

        assert (house.served("a"), house.served("b")) == ([1], [8])

    def test_unlisted_models_are_unloaded_and_new_ones_loaded(self, house: House) -> None:
        house.make("a", 1)
        house.make("b", 7)
        house.start(house.model("a"))
        house.apply(house.model("b"))

        assert house.served("b") == [7]
        eventually(lambda: not house.served("a"))
        assert [status.state for status in house.manager.statuses("a")] == [State.END]

        house.apply(house.model("a"), house.model("b"))
        assert (house.served("a"), house.served("b")) == ([1], [7])

    def test_a_model_without_a_name_is_served_and_logged_once(
        self, house: House, caplog: pytest.LogCaptureFixture
    ) -> None:
        house.make("", 1)
        house.start(house.model(""))
        house.apply(house.model(""))
        assert house.served("") == [1]
        warning = f"no request can call the model at {house.root}: its configuration gives it no name"
        assert caplog.messages.count(warning) == 1

    def test_an_empty_list_is_a_valid_configuration(self, house: House) -> None:
        house.make("a", 1)
        house.configuration.start(ModelServerConfig())
        house.configuration.apply(ModelServerConfig())
        house.apply(house.model("a"))
        assert house.served("a") == [1]

        house.apply()
        eventually(lambda: not house.served("a"))

    @pytest.mark.parametrize(
        ("policy", "served"),
        [
            ("", [9]),
            ("latest {}", [9]),
            ("latest { num_versions: 2 }", [9, 3]),
            ("all {}", [9, 3, 1]),
            ("specific { versions: 1 versions: 9 versions: 44 }", [9, 1]),
        ],
    )
    def test_the_policy_decides_which_versions_are_served(self, house: House, policy: str, served: list[int]) -> None:
        house.make("a", 1, 3, 9)
        house.start(house.model("a", f"model_version_policy {{ {policy} }}"))

        eventually(lambda: house.served("a") == served)

    def test_a_model_that_stays_gets_its_new_policy(self, house: House) -> None:
        house.make("a", 1, 2)
        house.start(house.model("a"))
        house.apply(house.model("a", "model_version_policy { specific { versions: 1 } }"))

        eventually(lambda: house.served("a") == [1])


class TestWaiting:
    def test_models_that_fail_at_the_start_are_all_named(self, house: House) -> None:
        house.make("a", 13)
        house.make("b", 1)
        house.make("c", 13)
        with pytest.raises(ServingError) as raised:
            house.start(*map(house.model, "cab"))

        assert raised.value.code == Code.UNKNOWN
        assert raised.value.message == (
            "2 servable(s) did not become available: {"
            "{{name: a version: 13} due to error: DATA_LOSS: a is broken}, "
            "{{name: c version: 13} due to error: DATA_LOSS: c is broken}, }"
        )

    def test_a_new_model_that_fails_is_named_and_the_configuration_stays(self, house: House) -> None:
        house.make("a", 1)
        house.make("b", 13)
        house.make("c", 2)
        house.start(house.model("a"))

        assert house.refused(house.model("b"), house.model("c")) == (
            Code.UNKNOWN,
            "1 model(s) did not become available: {{{name: b version: 13} due to error: DATA_LOSS: b is broken}, }",
        )
        assert house.served("c") == [2]
        eventually(lambda: not house.served("a"))

    def test_a_model_that_failed_before_and_is_new_again_fails_again(self, house: House) -> None:
        house.make("b", 13)
        house.start()
        for _ in range(2):
            assert house.refused(house.model("b"))[0] == Code.UNKNOWN
            house.apply()
        house.make("b", 14)
        house.apply(house.model("b"))

        assert house.served("b") == [14]

    def test_waiting_reloads_end_when_the_server_stops(self, house: House) -> None:
        house.start()
        refusals: list[tuple[Code, str]] = []
        waiting = Thread(target=lambda: refusals.append(house.refused(house.model("nowhere"))))
        waiting.start()
        eventually(lambda: house.source.names)
        assert waiting.is_alive()
        house.manager.let_go()
        waiting.join(PATIENCE)

        assert refusals == [(Code.UNAVAILABLE, "the server is stopping")]


class TestRefusals:
    @pytest.mark.parametrize(
        ("models", "text"),
        [
            (
                ['name: "x" base_path: "/x"', 'name: "x" base_path: "/y"'],
                "Illegal to list model x multiple times in config list",
            ),
            (
                ['name: "x" base_path: "models/x" model_platform: "tensorflow"'],
                "Expected model x to have an absolute path or URI; got base_path()=models/x",
            ),
            (
                ['name: "x" model_platform: "tensorflow"'],
                "Expected model x to have an absolute path or URI; got base_path()=",
            ),
            (
                ['name: "x" base_path: "/x"'],
                "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
                "ModelServerConfig::model_platform, model name is x",
            ),
            (
                ['name: "x" base_path: "/x" model_type: TENSORFLOW model_platform: "tensorflow"'],
                "Illegal setting both ModelServerConfig::model_type (deprecated) and "
                "ModelServerConfig::model_platform, model name is x",
            ),
            (['name: "x" base_path: "/x" model_type: OTHER'], "ModelServerConfig::model_type choice 2 not supported."),
            (['name: "x" base_path: "/x" model_platform: "caffe"'], "Model x requests unsupported platform caffe"),
            (
                ['name: "a" base_path: "/a" model_platform: "caffe"'],
                "Illegal to change a model's platform. For model a platform was tensorflow "
                "and new platform requested is caffe",
            ),
        ],
    )
    def test_a_bad_list_changes_nothing(self, house: House, models: list[str], text: str) -> None:
        house.make("a", 1)
        house.start(house.model("a"))
        house.apply(house.model("a", 'version_labels { key: "stable" value: 1 }'))

        assert house.refused(*models) == (Code.INVALID_ARGUMENT, text)
        assert house.labelled("a", "stable") == 1
        assert house.source.names == {"a"}
        house.apply(house.model("a"))
        assert house.served("a") == [1]

    @pytest.mark.parametrize("path", ["gs://bucket/x", "file:///x", "/x"])
    def test_an_absolute_path_or_a_uri_is_accepted(self, house: House, path: str) -> None:
        house.configuration._accept(config(f'name: "x" base_path: "{path}" model_type: TENSORFLOW'))

    def test_a_list_can_be_replaced_only_by_a_list(self, house: House) -> None:
        house.start()
        for other in (ModelServerConfig(), parse('custom_model_config { type_url: "x" }')):
            assert house.refused_whole(other) == (
                Code.FAILED_PRECONDITION,
                "Cannot transition to requested config. It is only legal to transition from one ModelConfigList to "
                "another.",
            )

    def test_a_configuration_of_another_kind(self, house: House) -> None:
        code, text = house.refused_whole(parse('custom_model_config { type_url: "x" }'))

        assert (code, text) == (
            Code.INVALID_ARGUMENT,
            "ModelServer does not yet support custom model config.",
        )


class TestLabels:
    def test_at_the_start_nothing_is_available_to_label(self, house: House) -> None:
        house.make("a", 1)
        with pytest.raises(ServingError, match="Request to assign label to version 1 of model a, which is not"):
            house.start(house.model("a", 'version_labels { key: "stable" value: 1 }'))

    def test_labels_at_the_start_can_be_allowed(self, tmp_path: Path) -> None:
        with housed(tmp_path, to_unavailable=True) as house:
            house.make("a", 1)
            house.start(house.model("a", 'version_labels { key: "stable" value: 1 }'))

            assert house.labelled("a", "stable") == 1

    def test_changed_labels_are_logged(self, house: House, caplog: pytest.LogCaptureFixture) -> None:
        house.make("a", 1)
        house.make("b", 1)
        labels = 'version_labels { key: "stable" value: 1 } version_labels { key: "old" value: 1 }'
        with caplog.at_level(logging.INFO):
            house.start(house.model("a"), house.model("b"))
            for _ in range(2):
                house.apply(house.model("a", labels), house.model("b"))
            house.apply(house.model("a"), house.model("b"))
        said = [record.message for record in caplog.records if record.message.startswith("labels")]
        assert said == ["labels of model a: old 1, stable 1", "labels of model a: none"]

    def test_labels_are_checked_before_anything_changes(self, house: House) -> None:
        house.make("a", 1)
        house.make("b", 1)
        house.start(house.model("a"))

        assert house.refused(house.model("b"), house.model("a", 'version_labels { key: "x" value: 2 }')) == (
            Code.FAILED_PRECONDITION,
            "Request to assign label to version 2 of model a, which is not currently available for inference",
        )
        assert house.source.names == {"a"}


class TestBasePathsThatAreNotThere:
    def test_a_reload_waits_for_a_missing_path_until_the_next_reload(self, house: House) -> None:
        house.make("a", 1)
        house.make("b", 1)
        house.start(house.model("a"))
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(house.refused, house.model("a"), house.model("typo"))
            eventually(lambda: house.source.names == {"a", "typo"})
            house.apply(house.model("a"), house.model("b"))

            assert first.result(PATIENCE) == (
                Code.UNKNOWN,
                "1 model(s) did not become available: {{{name: typo} due to error: no version of it was found}, }",
            )
        assert (house.served("a"), house.served("b")) == ([1], [1])

    def test_a_reload_is_answered_when_its_late_version_is_loaded(self, house: House) -> None:
        house.make("a", 1)
        house.start(house.model("a"))
        with ThreadPoolExecutor(1) as threads:
            reload = threads.submit(house.apply, house.model("a"), house.model("late"))
            eventually(lambda: house.source.names == {"a", "late"})
            house.make("late", 3)
            reload.result(PATIENCE)
        assert house.served("late") == [3]

    def test_polling_of_the_file_continues(self, house: House) -> None:
        house.make("a", 1)
        house.start(house.model("a"))
        with pytest.raises(ServingError, match="no version of it was found"):
            house.configuration.apply_at_once(config(house.model("a"), house.model("typo")))

        house.make("b", 2)
        house.configuration.apply_at_once(config(house.model("a"), house.model("b")))
        assert house.served("b") == [2]


class TestPoll:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        return tmp_path / "models.config"

    def write(self, file: Path, *models: str) -> None:
        file.with_suffix(".new").write_text(str(config(*models)))
        file.with_suffix(".new").rename(file)

    def test_changes_of_the_file_are_applied(self, house: House, file: Path) -> None:
        house.make("a", 1)
        house.make("b", 2)
        house.start(house.model("a"))
        poll = ConfigPoll(str(file), LOOK_OFTEN, house.configuration.apply)
        self.write(file, house.model("b"))
        poll.start()

        eventually(lambda: house.served("b") == [2])
        eventually(lambda: not house.served("a"))
        poll.stop()

    def test_an_error_in_the_file_is_logged_once_and_changes_nothing(
        self, house: House, file: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        house.make("a", 1)
        house.start(house.model("a"))
        poll = ConfigPoll(str(file), 1, house.configuration.apply)
        poll.poll()
        poll.poll()
        file.write_text("model_config_list { nonsense }")
        poll.poll()
        poll.poll()
        self.write(file, house.model("a"), house.model("a"))
        poll.poll()
        self.write(file, house.model("a"))
        with caplog.at_level(logging.INFO):
            poll.poll()
            poll.poll()

        ours = [record.message for record in caplog.records if not record.name.endswith("source")]
        assert ours == [
            f"Failed to read ModelServerConfig file: {file}: No such file or directory",
            "Error parsing text-format tensorflow.serving.ModelServerConfig: 1:21: Message type "
            '"tensorflow.serving.ModelConfigList" has no field named "nonsense".',
            f"Failed to read ModelServerConfig file: Invalid protobuf file: '{file}'",
            "PollFilesystemAndReloadConfig failed to ReloadConfig: "
            "Illegal to list model a multiple times in config list",
            f"{file} has been read and applied again",
        ]
        assert house.served("a") == [1]

    def test_a_pipe_is_not_read_again(self, house: House, file: Path, caplog: pytest.LogCaptureFixture) -> None:
        """As with `--model_config_file=<(...)`: opening it again would wait forever, and so would the server's end."""
        os.mkfifo(file)
        ConfigPoll(str(file), 1, house.configuration.apply).poll()

        assert caplog.messages == [
            f"Failed to read ModelServerConfig file: {file}: it is a pipe or a device, which is read only at the start"
        ]

    @pytest.mark.parametrize(("path", "seconds"), [("", 1), ("/models.config", 0), ("/models.config", -1)])
    def test_without_a_file_or_a_period_there_is_no_thread(self, path: str, seconds: float) -> None:
        applied = Event()
        poll = ConfigPoll(path, seconds, lambda _: applied.set())
        poll.start()
        assert not poll._thread.is_alive()
        poll.stop()
