"""The policy file: who may do what with which models, and how much."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from headrace_batching import Priority
from headrace_batching.option import Rule as Check
from headrace_batching.option import option, refusal
from headrace_server.errors import invalid
from headrace_server.security.account import NO_LIMITS, Limits
from headrace_server.security.methods import Action
from headrace_server.security.principal import ANONYMOUS_NAME, Principal
from headrace_server.security.tables import are_tables, read_table, read_toml

ANYBODY_KNOWN = "*"
KINDS = ("key:", "jwt:", "jwt-group:", "cert:", "group:")
_ACTIONS = tuple(str(action) for action in Action if action is not Action.PUBLIC)


def _are_names(names: Sequence[str]) -> bool:
    return bool(names) and all(name in (ANYBODY_KNOWN, ANONYMOUS_NAME) or name.startswith(KINDS) for name in names)


def _are_actions(names: Sequence[str]) -> bool:
    return bool(names) and all(name in _ACTIONS for name in names)


_NAMES = f"a list of names that begin with {', '.join(KINDS)}, or that are * or anonymous"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleOptions:
    """Keys of a `[[rules]]` table."""

    who: tuple[str, ...] = option((), "principals and groups that the rule applies to", fits=_are_names, words=_NAMES)
    models: tuple[str, ...] = option(("*",), "names of models, with * and ? as wildcards")
    methods: tuple[str, ...] = option(
        ("predict", "metadata"),
        "actions that the rule applies to",
        fits=_are_actions,
        words=f"a list of {', '.join(_ACTIONS)}",
    )
    allow: bool = option(True, "whether the rule allows the actions; if false, it forbids them")
    calls_per_second: float = option(0.0, "calls of each principal per second; 0 means no limit", least=0)
    rows_per_second: float = option(0.0, "rows, or Examples, of each principal per second; 0 means no limit", least=0)
    concurrent_calls: int = option(0, "calls of each principal at the same time; 0 means no limit", least=0)
    priority: str = option("normal", "low runs these calls after the calls of others", choices=("normal", "low"))


@dataclass(frozen=True, slots=True)
class Grant:
    """A rule of the policy: who may call which models, and how often.

    Attributes:
        number: The rule's position in the file, from 1.
        who: Names of principals and groups.
        models: Patterns of model names, for `fnmatchcase`.
        actions: The actions that the rule applies to.
        allow: Whether the actions are allowed.
        limits: The limits for each of the rule's principals.
        priority: The priority of the principals' calls.
    """

    number: int
    who: frozenset[str]
    models: tuple[str, ...]
    actions: frozenset[Action]
    allow: bool = True
    limits: Limits = NO_LIMITS
    priority: Priority = Priority.NORMAL

    def covers(self, model: str | None) -> bool:
        """Whether the rule applies to a model; only `*` covers every model."""
        if model is None:
            return "*" in self.models
        return any(fnmatchcase(model, pattern) for pattern in self.models)

    @property
    def is_low(self) -> bool:
        """Whether calls under the rule let the calls of others go first."""
        return self.priority is Priority.LOW


@dataclass(frozen=True, slots=True)
class Policy:
    """The rights of callers.

    Attributes:
        rules: The rules in order: the first one that applies to a call decides.
        groups: For each member of a group, by its name, the names of its groups; a member is a principal or a group.
    """

    rules: tuple[Grant, ...]
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def rule_for(self, principal: Principal, action: Action, model: str | None) -> Grant | None:
        """The rule that lets a principal do something to a model; None if no rule does.

        Args:
            principal: The caller.
            action: The action of the call.
            model: A name; None means every model.
        """
        names = self._names(principal)
        for rule in self.rules:
            if action in rule.actions and not names.isdisjoint(rule.who) and self._decides(rule, model):
                return rule if rule.allow else None
        return None

    def rule_without_model(self, principal: Principal, action: Action) -> Grant | None:
        """The rule that allows a principal an action on no particular model; None if it may act on no model at all."""
        names = self._names(principal)
        about = (rule for rule in self.rules if action in rule.actions and not names.isdisjoint(rule.who))
        first = next((rule for rule in about if rule.allow or "*" in rule.models), None)
        return first if first is not None and first.allow else None

    def _decides(self, rule: Grant, model: str | None) -> bool:
        """Whether a rule decides about a call: a rule that forbids one model also forbids listing every model."""
        return rule.covers(model) or (model is None and not rule.allow)

    def _names(self, principal: Principal) -> set[str]:
        own = {principal.name, *principal.groups}
        if not principal.is_anonymous:
            own.add(ANYBODY_KNOWN)
        return own.union(*(self.groups.get(name, frozenset()) for name in own))


WITHOUT_A_FILE = Policy((Grant(0, frozenset((ANYBODY_KNOWN,)), ("*",), frozenset(Action) - {Action.ADMIN}),))
"""Authenticated callers may do everything except administer the server."""

NOBODY_IS_KNOWN = Policy((Grant(0, frozenset((ANONYMOUS_NAME,)), ("*",), frozenset(Action)),))
"""For a server that only logs calls: anybody may do everything."""


def read_policy(path: Path) -> Policy:
    """Reads the policy in a file.

    Raises:
        ServingError: The file cannot be read, or is not a policy; the text names the key.
    """
    document = read_toml(path)
    if unknown := next((key for key in document if key not in ("rules", "groups")), None):
        raise invalid(f"{path}: unknown key {unknown!r}: a policy has [groups] and [[rules]]")
    rules = document.get("rules", [])
    if not are_tables(rules):
        raise invalid(f"{path}: rules must be tables: write [[rules]] above each rule")
    groups = _groups(path, document.get("groups", {}))
    made = [_rule(path, number, rule) for number, rule in enumerate(rules, start=1)]
    known = frozenset[str]().union(*groups.values())
    for rule in made:
        for name in rule.who:
            if name.startswith("group:") and name not in known:
                raise invalid(f"{path}: rule {rule.number}: who: there is no {name} with members in [groups]")
    return Policy(tuple(made), groups)


_MEMBERS = Check(kind=tuple, fits=_are_names, words=_NAMES)


def _groups(path: Path, table: Any) -> dict[str, frozenset[str]]:
    """The groups of each member."""
    if not isinstance(table, dict):
        raise invalid(f"{path}: groups must be a table")
    of: dict[str, set[str]] = {}
    for name, members in table.items():
        if not _MEMBERS.allows(members) or any(member.startswith("group:") for member in members):
            raise invalid(f"{path}: " + refusal(f"groups.{name}", _MEMBERS, members))
        for member in members:
            of.setdefault(member, set()).add(f"group:{name}")
    return {member: frozenset(groups) for member, groups in of.items()}


def _rule(path: Path, number: int, table: Mapping[str, Any]) -> Grant:
    where = f"{path}: rule {number}: "
    read = read_table(RuleOptions, where, table)
    if not read.who:
        raise invalid(f"{where}who must be {_NAMES}; it is missing")
    return Grant(
        number,
        frozenset(read.who),
        tuple(pattern.replace("[", "[[]") for pattern in read.models),  # only * and ? are wildcards
        frozenset(map(Action, read.methods)),
        read.allow,
        Limits(read.calls_per_second, read.rows_per_second, read.concurrent_calls),
        Priority.LOW if read.priority == "low" else Priority.NORMAL,
    )
