"""Exact names for what can be chosen in a config, found by importing the packages that hold one choice a file."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import difflib
import importlib
import inspect
import math
import numbers
import pathlib
import pkgutil
import types
import typing
from typing import Any


class OptionError(ValueError):
  """An option that is not possible, named relative to what it is an option of; whoever hands options on names the path.

  `str` of it begins with the whole name, such as `config.model.item.towers.cover.mode = 'tpo': …`.
  """

  def __init__(self, option: str, problem: str):
    """`option` is a name, dotted where it lies in a section; `problem` follows it: `= 0 must be at least 1`."""
    super().__init__(option, problem)
    self.option, self.problem = option, problem

  def __str__(self) -> str:
    return f"{self.option} {self.problem}"

  def below(self, section: str) -> "OptionError":
    """The same, named from one section further out."""
    return OptionError(f"{section}.{self.option}", self.problem)


@contextlib.contextmanager
def options_of(section: str) -> Iterator[None]:
  """Names the options that are found wrong in the block by the path of the section that they are from."""
  try:
    yield
  except OptionError as error:
    raise error.below(section) from error.__cause__


def at_least(least: float, **options: float) -> None:
  """Raises an OptionError that names the first of the options which is below `least`."""
  for name, value in options.items():
    if not value >= least:
      raise OptionError(name, f"= {value} must be at least {least}")


# What a name has in common, from 0 to 1, with one that may be meant; and how much less with a further one.
_NEAR, _FURTHER = 0.6, 0.2
_SHOWN = 3


def near(name: str, valid: Iterable[str]) -> list[str]:
  """The choices that a name may be a slip of, nearest first; empty where there are none, as of a number."""
  # Another number is another thing, however many digits they share.
  if not any(map(str.isalpha, name)):
    return []
  # Case is a slip like any other, and the smallest.
  plain: dict[str, list[str]] = {}
  for choice in sorted(valid):
    plain.setdefault(choice.lower(), []).append(choice)
  found = difflib.get_close_matches(name.lower(), plain, n=_SHOWN, cutoff=_NEAR)
  scores = [difflib.SequenceMatcher(None, name.lower(), choice).ratio() for choice in found]
  # What is much further than the nearest is not meant.
  return [one for key, score in zip(found, scores) if score >= scores[0] - _FURTHER for one in plain[key]][:_SHOWN]


def near_file(path: pathlib.Path) -> str:
  """What a path that is not there may be meant for, of what lies in its folder: `; did you mean 'x.csv'?`, or empty."""
  names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
  found = near(path.name, names)
  return f"; did you mean {' or '.join(repr(str(path.with_name(name))) for name in found)}?" if found else ""


def closest(name: str, valid: Iterable[str]) -> str:
  """A sentence that names the nearest valid choices, or all of them where none is near."""
  valid = sorted(valid)
  found = near(name, valid)
  return f"did you mean {' or '.join(map(repr, found))}?" if found else f"expected one of {', '.join(map(repr, valid))}"


def variant(entry: type, **defaults: Any) -> Callable:
  """A class with other defaults, to be registered under a name of its own; its options are the class's."""

  def build(**options: Any) -> Any:
    return entry(**defaults | options)

  build.__doc__ = entry.__doc__
  build.__signature__ = inspect.Signature([  # type: ignore[attr-defined]
    parameter.replace(default=defaults.get(name, parameter.default)) for name, parameter in _parameters(entry).items()
  ])  # fmt: skip
  return build


def call(entry: Any, *args: Any, name: str, section: Mapping[str, Any] = {}, **options: Any) -> Any:
  """Calls a class or function with options out of a config.

  Args:
    entry: to be called.
    *args: its first arguments.
    name: of it, for messages.
    section: options out of a config, which may name anything.
    **options: of the entry; what they and `args` give, the section cannot.

  Raises:
    OptionError: an option is unknown, given already, or not of the type that its annotation states.
  """
  parameters = _parameters(entry)
  takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
  given = {*[parameter for parameter in parameters if parameter != "self"][: len(args)], *options}
  for option, value in [*options.items(), *section.items()]:
    if option not in parameters and not takes_any:
      valid = [choice for choice in _settable(entry) if option not in section or choice not in given]
      raise OptionError(option, f"= {value!r}: {name!r} has no such option; {closest(option, valid)}")
    if option in section and option in given:
      raise OptionError(option, f"= {section[option]!r} cannot be set here: it is known already")
    if option in parameters:
      _check_type(option, value, parameters[option].annotation)
  return entry(*args, **options, **section)


class Registry:
  """Names of one sort of thing, each registered by the module that defines it.

  Attributes:
    packages: dotted packages whose modules are imported, once, before names are looked up.
  """

  def __init__(self, sort: str, packages: Iterable[str]):
    self._sort = sort
    self._packages = tuple(packages)
    self._entries: dict[str, tuple[str, Any]] = {}
    self._loaded = False

  def register(self, name: str, *, kind: str = "") -> Callable[[Any], Any]:
    """Decorates a class or function to be found under `name`, listed under `kind`."""

    def add(entry: Any) -> Any:
      if name in self._entries and self._entries[name][1] is not entry:
        raise ValueError(f"{self._sort} {name!r} is registered twice")
      self._entries[name] = (kind, entry)
      return entry

    return add

  def unregister(self, name: str) -> None:
    """Forgets a name, such as one that was registered for a while."""
    del self._entries[name]

  def names(self, kind: str | None = None) -> list[str]:
    """All names, or those of one kind, sorted."""
    self._load()
    return sorted(name for name, (of, _) in self._entries.items() if kind in (None, of))

  def kinds(self) -> list[str]:
    self._load()
    return sorted({kind for kind, _ in self._entries.values()})

  def get(self, name: str, *, kind: str | None = None) -> Any:
    """The entry of that exact name.

    Raises:
      ValueError: there is none (of that kind); the message names the closest ones.
    """
    valid = self.names(kind)
    if name not in valid:
      raise ValueError(f"unknown {kind or self._sort} {name!r}: {closest(str(name), valid)}")
    return self._entries[name][1]

  def kind_of(self, name: str) -> str:
    """The kind of the entry of that name.

    Raises:
      ValueError: there is none; the message names the closest ones.
    """
    self.get(name)
    return self._entries[name][0]

  def create(
    self, name: str, *args: Any, kind: str | None = None, section: Mapping[str, Any] = {}, **options: Any
  ) -> Any:
    """Calls the entry of that name.

    Args:
      name: of the entry.
      *args: its first arguments.
      kind: which it must be of.
      section: options out of a config, which may name anything.
      **options: of the entry; what they and `args` give, the section cannot.

    Raises:
      ValueError: the name is unknown; the message names the closest ones.
      OptionError: an option is unknown, given already, or not of the type that its annotation states.
    """
    return call(self.get(name, kind=kind), *args, name=name, section=section, **options)

  def parameters(self, name: str, *, kind: str | None = None) -> dict[str, inspect.Parameter]:
    """What may be set of the entry of that name, with annotations and defaults.

    Raises:
      ValueError: as `get`.
    """
    return _settable(self.get(name, kind=kind))

  def options(self, name: str, *, kind: str | None = None) -> list[str]:
    """The names of what may be set of the entry of that name.

    Raises:
      ValueError: as `get`.
    """
    return list(self.parameters(name, kind=kind))

  def required(self, name: str) -> list[str]:
    """Those of `options` that have no default."""
    return [option for option, one in self.parameters(name).items() if one.default is inspect.Parameter.empty]

  def _load(self) -> None:
    if self._loaded:
      return
    self._loaded = True
    for package in self._packages:
      path = importlib.import_module(package).__path__
      for module in pkgutil.walk_packages(path, package + "."):
        importlib.import_module(module.name)


def _parameters(entry: Callable) -> Mapping[str, inspect.Parameter]:
  """What may be set of an entry; that of a base class is included where a constructor hands further options on."""
  if not inspect.isclass(entry):
    return inspect.signature(entry).parameters
  # A class's own signature may be hidden by its metaclass, as NNX's does.
  constructors = (vars(base)["__init__"] for base in entry.__mro__ if "__init__" in vars(base))
  found, *inherited = (dict(inspect.signature(constructor).parameters) for constructor in constructors)
  for parameters in inherited:
    handed_on = [name for name, parameter in found.items() if parameter.kind is parameter.VAR_KEYWORD]
    if not handed_on:
      break
    del found[handed_on[0]]
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    found |= {name: one for name, one in parameters.items() if one.kind in named and name not in found}
  return found


def _settable(entry: Callable) -> dict[str, inspect.Parameter]:
  return {option: one for option, one in _parameters(entry).items() if option not in ("self", "rngs")}


# What an option of a plain type may be, and, in words, what it and what a list of such is.
_KINDS: Mapping[Any, tuple[Any, str, str]] = {
  bool: (bool, "True or False", "a list of True and False"),
  int: (numbers.Integral, "an integer", "a list of integers"),
  float: (numbers.Real, "a number", "a list of numbers"),
  str: (str, "a text", "a list of texts"),
}


def _check_type(option: str, value: Any, annotation: Any) -> None:
  """Compares a value with the plain types of an annotation; a type that is none of those may be anything.

  Raises:
    OptionError: it is of none of them.
  """
  choices = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
  wanted = [_wanted(value, choice) for choice in choices]
  if all(wanted):
    raise OptionError(option, f"= {value!r} must be {' or '.join(wanted)}")


def _wanted(value: Any, annotation: Any) -> str:
  """What the annotation wants in words; empty where the value is that."""
  if annotation is None or annotation is types.NoneType:
    return "" if value is None else "None"
  if annotation in _KINDS:
    kind, words, _ = _KINDS[annotation]
    if not isinstance(value, kind) or (isinstance(value, bool) and annotation is not bool):
      return words
    return "" if annotation is not float or math.isfinite(value) else "a finite number"
  origin = typing.get_origin(annotation) or annotation
  if origin in (Mapping, dict):
    # What `dict` takes: sections of a config are no mappings by name.
    return "" if hasattr(value, "keys") else "a section of options"
  if origin in (Sequence, tuple, list):
    return _wanted_list(value, *typing.get_args(annotation)[:1])
  # Arrays, modules and what else is not written in a config.
  return ""


def _wanted_list(value: Any, member: Any = Any) -> str:
  """A list of such members in words; empty where the value is one."""
  wanted = _KINDS[member][2] if member in _KINDS else "a list"
  if not isinstance(value, Sequence) or isinstance(value, str):
    return wanted
  return wanted if any(_wanted(one, member) for one in value) else ""
