"""Configs as JSON text, and back."""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import reprlib
from typing import Any, get_args, get_origin, get_type_hints, TypeVar

from beartype import BeartypeConf
from beartype.door import is_bearable

from vtp_eqx.config.checks import require
from vtp_eqx.config.fields import IS_LOCATION, NEUTRAL
from vtp_eqx.config.old_names import FIELDS


Config = TypeVar("Config")
_INTEGERS_ARE_FLOATS = BeartypeConf(is_pep484_tower=True)  # as everywhere


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
            if IS_LOCATION not in field.metadata
            and (NEUTRAL not in field.metadata or own != field.metadata[NEUTRAL])
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


def from_dict(kind: type[Config], fields: Any) -> Config:
    """The config, or other dataclass, whose `as_json` was parsed into `fields`.

    Fields that are missing keep their defaults. A `ValueError` names those that are
    unknown, that have no default, or whose value is of another type than the field.
    Names that fields had before are accepted.
    """
    require(
        isinstance(fields, Mapping),
        f"A {kind.__name__} has named fields; got {reprlib.repr(fields)}: use the "
        "version that wrote it, or copy it again.",
    )
    hints = get_type_hints(kind)
    today = {old: new for new, old in FIELDS.get(kind.__name__, {}).items()}
    fields = {today.get(name, name): value for name, value in fields.items()}
    needed = {
        field.name
        for field in dataclasses.fields(kind)  # pyright: ignore[reportArgumentType]
        if field.default is field.default_factory is dataclasses.MISSING
    }
    unknown, missing = fields.keys() - hints.keys(), needed - fields.keys()
    require(
        not unknown,
        f"A {kind.__name__} has the fields {sorted(hints)}; got "
        f"{reprlib.repr(sorted(unknown))}: remove them, or use the version that wrote "
        "them.",
    )
    require(
        not missing,
        f"A {kind.__name__} must have the fields {sorted(missing)}; they are missing: "
        "add them, or use the version that wrote it.",
    )
    values = {name: _value(hints[name], value) for name, value in fields.items()}
    for name, value in values.items():
        hint = hints[name]
        words = hint.__name__ if isinstance(hint, type) else str(hint)
        require(
            _is_of(hint, value),
            f"`{name}` ({reprlib.repr(value)}) of a {kind.__name__} must be of the "
            f"type {words.replace('typing.', '')}: correct it, or use the version that "
            "wrote it.",
        )
    return kind(**values)


def _is_of(hint: Any, value: Any) -> bool:
    """Whether `value`, and each value inside it, has its hint's type.

    By itself the type checker looks at one value of a tuple, drawn at random.
    """
    for kind in (hint, *get_args(hint)):
        origin, inside = get_origin(kind), get_args(kind)
        if isinstance(value, tuple) and origin is tuple and inside[1:] == (...,):
            return all(_is_of(inside[0], own) for own in value)
        if isinstance(value, Mapping) and origin in (dict, Mapping):
            return all(_is_of(inside[1], own) for own in value.values())
    return is_bearable(value, hint, conf=_INTEGERS_ARE_FLOATS)


def _value(hint: Any, value: Any) -> Any:
    """`value` from JSON as its type hint has it: nested configs, tuples for lists."""
    if hint is Any:
        return value
    kinds: list[Any] = [hint, *get_args(hint)]
    if isinstance(value, Mapping):
        nested: list[Any] = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
        if nested:
            # Of several, the one that has such fields.
            fits = [kind for kind in nested if value.keys() <= _known_names(kind)]
            return from_dict((fits or nested)[0], value)
        inside = get_args(hint)[1] if len(get_args(hint)) == 2 else Any
        return {name: _value(inside, own) for name, own in value.items()}
    if isinstance(value, list):
        inner = [get_args(kind)[:1] for kind in kinds if get_origin(kind) is tuple]
        return tuple(_value(inner[0][0] if inner else Any, own) for own in value)
    return value


def _known_names(kind: Any) -> set[str]:
    """The names that fields of a dataclass have and had."""
    names = {field.name for field in dataclasses.fields(kind)}
    return names | {*FIELDS.get(kind.__name__, {}).values()}
