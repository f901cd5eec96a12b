"""Configs as JSON text, and back."""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
from typing import Any, get_args, get_type_hints, TypeVar

from vtp_eqx.config.checks import require
from vtp_eqx.config.fields import NEUTRAL
from vtp_eqx.config.old_names import FIELDS


Config = TypeVar("Config")


def as_json(config: Any) -> str:
    """A config as JSON text, the same text for equal configs."""
    return json.dumps(dataclasses.asdict(config), indent=1, sort_keys=True)


def short_hash(config: Any) -> str:
    """Twelve hexadecimal digits that name a config by its content."""
    text = json.dumps(_content(config), indent=1, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _content(value: Any) -> Any:
    """`value` as JSON has it, by old names, without fields of `later` at neutral."""
    if dataclasses.is_dataclass(value):
        old_names = FIELDS.get(type(value).__name__, {})
        return {
            old_names.get(field.name, field.name): _content(own)
            for field in dataclasses.fields(value)
            for own in [getattr(value, field.name)]
            if NEUTRAL not in field.metadata or own != field.metadata[NEUTRAL]
        }
    if isinstance(value, Mapping):
        return {name: _content(own) for name, own in value.items()}
    return [*map(_content, value)] if isinstance(value, tuple | list) else value


def changed_fields(before: Any, after: Any) -> list[str]:
    """The fields in which two configs of one class differ, as `optimizer.b1`, say."""
    changed = []
    for field in dataclasses.fields(before):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if dataclasses.is_dataclass(old) and type(old) is type(new):
            inside = changed_fields(old, new)
            changed += [f"{field.name}.{name}" for name in inside]
        elif old != new:
            changed.append(field.name)
    return changed


def from_dict(kind: type[Config], fields: Mapping[str, Any]) -> Config:
    """The config of class `kind` whose `as_json` was parsed into `fields`.

    Fields that are missing keep their defaults; unknown ones raise `ValueError`. Names
    that fields had before are accepted.
    """
    hints = get_type_hints(kind)
    today = {old: new for new, old in FIELDS.get(kind.__name__, {}).items()}
    fields = {today.get(name, name): value for name, value in fields.items()}
    unknown = sorted(fields.keys() - hints.keys())
    require(
        not unknown,
        f"A {kind.__name__} has the fields {sorted(hints)}; got {unknown}: "
        "remove them, or use the version that wrote them.",
    )
    return kind(**{name: _value(hints[name], value) for name, value in fields.items()})


def _value(hint: Any, value: Any) -> Any:
    """`value` from JSON as its type hint has it: nested configs, tuples for lists."""
    if isinstance(value, Mapping):
        kinds: list[Any] = [
            kind for kind in (hint, *get_args(hint)) if dataclasses.is_dataclass(kind)
        ]
        return from_dict(kinds[0], value) if kinds else dict(value)
    return tuple(value) if isinstance(value, list) else value
