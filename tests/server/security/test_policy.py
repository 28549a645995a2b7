"""The policy file: which rule decides, and the errors of bad files."""

from pathlib import Path

import pytest

from headrace_server.errors import ServingError
from headrace_server.security.methods import Action
from headrace_server.security.policy import NOBODY_IS_KNOWN, WITHOUT_A_FILE, Policy, read_policy
from headrace_server.security.principal import ANONYMOUS, Principal

SHOP, ALICE = Principal("key:shop"), Principal("jwt:alice", frozenset({"jwt-group:ml"}))


def policy_of(tmp_path: Path, text: str) -> Policy:
    file = tmp_path / "policy.toml"
    file.write_text(text)
    return read_policy(file)


def rule(policy: Policy, principal: Principal, model: str | None, action: Action = Action.PREDICT) -> int:
    found = policy.rule_for(principal, action, model)
    return 0 if found is None else found.number


def test_the_first_rule_that_applies_to_a_call_decides(tmp_path: Path) -> None:
    policy = policy_of(
        tmp_path,
        """
        [groups]
        team = ["key:shop", "jwt-group:ml"]
        [[rules]]
        who = ["group:team"]
        models = ["secret"]
        allow = false
        [[rules]]
        who = ["key:shop"]
        models = ["shop-*", "price?"]
        [[rules]]
        who = ["*"]
        methods = ["metadata"]
        """,
    )

    assert rule(policy, SHOP, "shop-a") == rule(policy, SHOP, "price1") == 2
    assert rule(policy, SHOP, "price10") == rule(policy, SHOP, "secret") == rule(policy, ALICE, "shop-a") == 0
    assert rule(policy, ALICE, "shop-a", Action.METADATA) == 3
    assert rule(policy, ALICE, "shop-a", Action.ADMIN) == rule(policy, ANONYMOUS, "shop-a", Action.METADATA) == 0
    assert rule(policy, Principal("key:other"), "secret", Action.METADATA) == 3


def test_only_stars_and_question_marks_are_wildcards(tmp_path: Path) -> None:
    forbidden = policy_of(tmp_path, '[[rules]]\nwho=["*"]\nmodels=["a[1]","[!x]"]\nallow=false\n[[rules]]\nwho=["*"]')
    allowed = policy_of(tmp_path, '[[rules]]\nwho=["*"]\nmodels=["a[1-9]*", "[b]?"]')

    assert [rule(forbidden, SHOP, model) for model in ("a[1]", "[!x]", "a1", "y")] == [0, 0, 2, 2]
    assert [rule(allowed, SHOP, model) for model in ("a[1-9]", "a[1-9]b", "[b]c", "a1", "bc")] == [1, 1, 1, 0, 0]


def test_calls_for_all_models_need_a_rule_for_all(tmp_path: Path) -> None:
    some = policy_of(tmp_path, '[[rules]]\nwho = ["*"]\nmodels = ["a*"]')
    every = policy_of(tmp_path, '[[rules]]\nwho = ["*"]')
    but_one = policy_of(tmp_path, '[[rules]]\nwho=["*"]\nmodels=["a"]\nallow=false\n[[rules]]\nwho=["*"]')

    found = [rule(policy, SHOP, None) for policy in (some, every, but_one)]
    assert found == [0, 1, 0]
    assert but_one.rule_without_model(SHOP, Action.PREDICT) is not None


def test_without_a_file() -> None:
    assert WITHOUT_A_FILE.rule_for(SHOP, Action.PREDICT, "m") is not None
    assert WITHOUT_A_FILE.rule_for(SHOP, Action.ADMIN, "m") is None
    assert WITHOUT_A_FILE.rule_for(ANONYMOUS, Action.PREDICT, "m") is None
    assert NOBODY_IS_KNOWN.rule_for(ANONYMOUS, Action.ADMIN, None) is not None


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("rules = 3", "rules must be tables"),
        ("x = 1", "unknown key 'x'"),
        ("[[rules]", "is not TOML"),
        ("[[rules]]", "rule 1: who must be"),
        ('[[rules]]\nwho = ["shop"]', "rule 1: who must be a list of names that begin with key:"),
        ('[[rules]]\nwho = "*"', "rule 1: who must be"),
        ('[[rules]]\nwho = ["*"]\n[[rules]]\nwho = ["*"]\nmodel = ["m"]', "rule 2: unknown key 'model'"),
        ('[[rules]]\nwho = ["*"]\nmethods = ["run"]', "rule 1: methods must be a list of predict,"),
        ('[[rules]]\nwho = ["*"]\nmethods = []', "rule 1: methods must be"),
        ('[[rules]]\nwho = ["*"]\ncalls_per_second = -1', "calls_per_second must be a finite number of at least 0"),
        ('[[rules]]\nwho = ["*"]\npriority = "high"', "priority must be one of normal, low; was 'high'"),
        ('[[rules]]\nwho = ["group:nobody"]', "rule 1: who: there is no group:nobody"),
        ('[groups]\na = ["b"]', "groups.a must be"),
        ('[groups]\na = ["group:a"]', "groups.a must be"),
    ],
)
def test_errors_name_the_rule_and_the_key(tmp_path: Path, text: str, culprit: str) -> None:
    with pytest.raises(ServingError) as error:
        policy_of(tmp_path, text)

    assert str(tmp_path / "policy.toml") in error.value.message
    assert culprit in error.value.message
