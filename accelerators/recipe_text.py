"""Recipe text, ``name:knob=value,knob=value + name``. In quotes a value may hold anything: ``before="a fox, red"``."""

import re

from ..pipelines import KnobError

_QUOTED = r'"(?:[^"]|"")*+"'  # a quote within is written twice, so that the backslashes of a path stay as they are
UNSAFE = re.compile(r'[,+"]|^\s|\s$|\.toml$')  # what a value without quotes would lose, or be taken for a file by


def quoted(value: str) -> str:
    """Write a value so that recipe text keeps it.

    >>> print(quoted("blue fox"), quoted('a "fox", red'))
    blue fox "a ""fox"", red"
    """
    return '"' + value.replace('"', '""') + '"' if UNSAFE.search(value) else value


def recipe_parts(text: str) -> list[str]:
    """Return the accelerators of a recipe, each as text.

    >>> recipe_parts('ab-cache + sparse-cross-attention:words="fox + cat"')
    ['ab-cache', 'sparse-cross-attention:words="fox + cat"']
    """
    return _cut(text, "+")


def knob_texts(part: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the name of an accelerator, and its knobs with their values.

    >>> knob_texts('sparse-cross-attention:words=fox,before="a fox, red"')
    ('sparse-cross-attention', [('words', 'fox'), ('before', 'a fox, red')])

    Raises:
        KnobError: there is no name, a knob without a value or twice, or a quote that does not end.
    """
    name, _, settings = part.partition(":")
    name = name.strip()
    if not name:
        raise KnobError("a recipe is empty; write for example ab-cache:every=3 + guidance-interval")
    found: list[tuple[str, str]] = []
    for pair in filter(None, _cut(settings, ",")):
        knob, equals, value = (word.strip() for word in pair.partition("="))
        if not equals:
            raise KnobError(f"{name}: {knob!r} has no value; write {knob}=...")
        if any(knob == known for known, _ in found):
            raise KnobError(f"{name}: {knob} is there twice: leave one of them out")
        found.append((knob, _unquoted(f"{name}: {knob}", value)))
    return name, found


def _cut(text: str, mark: str) -> list[str]:
    """Cut a text at a mark, but not within quotes."""
    at = [found.start() for found in re.finditer(rf"=\s*{_QUOTED}|({re.escape(mark)})", text) if found[1]]
    ends = zip([0, *(end + 1 for end in at)], [*at, len(text)], strict=True)
    return [text[begin:end].strip() for begin, end in ends]


def _unquoted(where: str, value: str) -> str:
    if not value.startswith('"'):
        return value
    if not re.fullmatch(_QUOTED, value):
        raise KnobError(f'{where} is {value}, whose quotes do not end as they begin; a quote within is written ""')
    return value[1:-1].replace('""', '"')
