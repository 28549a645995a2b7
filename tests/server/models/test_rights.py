"""What callers of HandleReloadConfigRequest may do, and what only the operator may do."""

from pathlib import Path

import pytest

from headrace_protos import Code, ModelServerConfig
from headrace_server.config.run import Config
from headrace_server.errors import LoadError, ServingError
from headrace_server.models.rights import CodeTrust, ReloadRights


def config(base_path: Path | str, log: Path | str = "") -> ModelServerConfig:
    message = ModelServerConfig()
    model = message.model_config_list.config.add(name="m", base_path=str(base_path), model_platform="tensorflow")
    if log:
        model.logging_config.log_collector_config.filename_prefix = str(log)
    return message


def refusal(wanted: ModelServerConfig, operators: ModelServerConfig | None = None, **flags: object) -> str:
    """The error that a caller gets; empty if the request is allowed."""
    rights = ReloadRights.of(Config(model_base_path="/m", **flags))  # type: ignore[arg-type]
    try:
        rights.check(wanted, operators or ModelServerConfig())
    except ServingError as error:
        return error.message if error.code == Code.PERMISSION_DENIED else str(error.code)
    return ""


class TestReload:
    def test_is_refused_altogether(self) -> None:
        assert "--allow_reload=false" in refusal(config("/a"), allow_reload="false")

    @pytest.mark.parametrize("allow", ["config-only", "true"])
    def test_may_name_any_base_path_without_roots(self, allow: str) -> None:
        assert refusal(config("/anywhere/at/all"), allow_reload=allow) == ""

    def test_may_name_base_paths_in_a_root(self, tmp_path: Path) -> None:
        (tmp_path / "models").mkdir()
        roots = (str(tmp_path / "models"),)

        assert refusal(config(tmp_path / "models" / "a"), model_roots=roots) == ""
        assert "--model_roots" in refusal(config(tmp_path / "elsewhere"), model_roots=roots)

    @pytest.mark.parametrize("path", ["models/../etc", "models/link", "models-too"])
    def test_finds_out_where_a_path_leads(self, tmp_path: Path, path: str) -> None:
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "link").symlink_to("/etc")

        assert "--model_roots" in refusal(config(tmp_path / path), model_roots=(str(tmp_path / "models"),))

    def test_may_always_name_what_the_operator_has_configured(self, tmp_path: Path) -> None:
        wanted = config(tmp_path / "m", tmp_path / "calls")

        assert refusal(wanted, wanted, model_roots=("/elsewhere",)) == ""

    def test_may_have_calls_logged_in_a_root_alone(self, tmp_path: Path) -> None:
        wanted = config("/m", tmp_path / "calls")

        assert "--request_log_roots" in refusal(wanted)
        assert refusal(wanted, request_log_roots=(str(tmp_path),)) == ""
        assert refusal(wanted, allow_reload="true") == ""
        assert "--request_log_roots" in refusal(wanted, allow_reload="true", request_log_roots=("/elsewhere",))


class TestCode:
    def version(self, tmp_path: Path, name: str) -> Path:
        folder = tmp_path / name / "1"
        folder.mkdir(parents=True)
        (folder / "model.py").write_text("")
        return folder

    def test_runs_where_the_operator_has_named_its_base_path(self, tmp_path: Path) -> None:
        trust = CodeTrust(everywhere=False)
        trust.trust([tmp_path / "named"])

        trust.check(self.version(tmp_path, "named"))
        with pytest.raises(LoadError, match="--code_roots") as refused:
            trust.check(self.version(tmp_path, "other"))
        assert refused.value.code == Code.PERMISSION_DENIED

    def test_runs_in_a_root_and_not_where_a_link_leads_out_of_it(self, tmp_path: Path) -> None:
        trust = CodeTrust(everywhere=False, roots=[tmp_path / "code"])
        inside, outside = self.version(tmp_path, "code/m"), self.version(tmp_path, "outside")
        (tmp_path / "code" / "link").symlink_to(outside.parent)

        trust.check(inside)
        with pytest.raises(LoadError):
            trust.check(tmp_path / "code" / "link" / "1")

    def test_libraries_are_code(self, tmp_path: Path) -> None:
        with pytest.raises(LoadError, match="names libraries of code"):
            CodeTrust(everywhere=False).check(tmp_path / "1", libraries=True)
        CodeTrust().check(tmp_path / "1", libraries=True)

    def test_is_not_asked_of_models_that_hold_none(self, tmp_path: Path) -> None:
        CodeTrust(everywhere=False).check(tmp_path)

    def test_runs_anywhere_where_callers_may_do_anything(self, tmp_path: Path) -> None:
        CodeTrust.of(Config(model_base_path="/m", allow_reload="true")).check(self.version(tmp_path, "any"))
