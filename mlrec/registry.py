"""Exact names for what can be chosen in a config, found by importing the packages that hold one choice a file."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import difflib
import importlib
import inspect
import pkgutil
from typing import Any


def closest(name: str, valid: Iterable[str]) -> str:
  """A sentence that names the nearest valid choices, or all of them where none is near."""
  valid = sorted(valid)
  near = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
  return f"did you mean {' or '.join(map(repr, near))}?" if near else f"expected one of {', '.join(map(repr, valid))}"


def variant(entry: type, **defaults: Any) -> Callable:
  """A class with other defaults, to be registered under a name of its own; its options are the class's."""

  def build(**options: Any) -> Any:
    return entry(**defaults | options)

  build.__signature__ = inspect.Signature(list(_parameters(entry).values()))  # type: ignore[attr-defined]
  return build


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

  def register(self, name: str, *, kind: str = "") -> Callable:
    """Decorates a class or function to be found under `name`, listed under `kind`."""

    def add(entry):
      if name in self._entries and self._entries[name][1] is not entry:
        raise ValueError(f"{self._sort} {name!r} is registered twice")
      self._entries[name] = (kind, entry)
      return entry

    return add

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

  def create(self, name: str, *args, kind: str | None = None, **options) -> Any:
    """Calls the entry of that name.

    Raises:
      ValueError: the name, or an option, is unknown; the message names the closest ones.
    """
    entry = self.get(name, kind=kind)
    parameters = _parameters(entry)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for option in options:
      if option not in parameters and not takes_any:
        raise ValueError(f"{name!r} has no option {option!r}: {closest(option, self.options(name))}")
    return entry(*args, **options)

  def options(self, name: str, *, kind: str | None = None) -> list[str]:
    """The names of what may be set of the entry of that name.

    Raises:
      ValueError: as `get`.
    """
    return [parameter for parameter in _parameters(self.get(name, kind=kind)) if parameter not in ("self", "rngs")]

  def required(self, name: str) -> list[str]:
    """Those of `options` that have no default."""
    parameters = _parameters(self.get(name))
    return [option for option in self.options(name) if parameters[option].default is inspect.Parameter.empty]

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
