"""What of a run's documents may be seen by everyone: no paths of this machine, nobody's command line. No torch here.

A model or data set that lies in a folder of this machine goes by its last name: `jsonl:/home/ada/mine.jsonl` becomes
`jsonl:mine.jsonl`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

Record = Mapping[str, Any]
_LOCAL_FAMILIES = ("jsonl", "text", "cloze")
REPORT = (
    "schema", "command", "dataset", "split", "n", "pair", "bridge", "arms", "contrasts", "agreement", "reasoning",
    "costs", "outcomes", "exactness", "verdict", "warnings", "overlap", "manifest",
)  # fmt: skip
_MANIFEST = (
    "seed", "trained_seed", "scaffold", "batch", "handoff", "reasoning", "cut_last_step", "versions", "reuse",
)  # fmt: skip
_PLACES = {"data": ("data_dir",), "train": ("init", "store", "tracker")}
_EXACT = ("hashes", "fingerprint", "tokenizer")  # never reworded
_PATH = re.compile(r"""(?<![\w/.~])(?:~[\w-]*|\.{1,2})?(?:/[^\s/"'<>|:;,()\[\]{}]+)+/?|(?<!\w)[A-Za-z]:\\[^\s"'<>|]+""")


class Names:
    """What is called otherwise in public: models that `given` renames, and whatever is named by a path."""

    def __init__(self, models: Iterable[str], data_sets: Iterable[str], given: Mapping[str, str] | None = None) -> None:
        self.known = dict(given or {})
        for name in [*filter(is_local_model, models), *filter(is_local_data, data_sets)]:
            if name not in self.known:
                self.known[name] = _unlike(_short(name), self.known.values())

    def text(self, text: str) -> str:
        for name in sorted(self.known, key=len, reverse=True):
            text = re.sub(rf"(?<![\w/.-]){re.escape(name)}(?![\w/-])", lambda _, name=name: self.known[name], text)
        return _PATH.sub(lambda found: _last(found[0]), text)

    def of(self, value: Any) -> Any:
        """The same document with every string in it, keys too, as it may be seen."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): inner if key in _EXACT else self.of(inner) for key, inner in value.items()}
        return [self.of(inner) for inner in value] if isinstance(value, list | tuple) else value


def is_local_model(name: str) -> bool:
    """Whether a model is named by where it lies on this machine."""
    return bool(name.startswith((".", "/", "~")) or name.endswith(".gguf") or name.count("/") > 1 or "\\" in name) or (
        not name.startswith("lab:") and Path(name).exists()
    )


def is_local_data(name: str) -> bool:
    return name.partition(":")[0] in _LOCAL_FAMILIES and ":" in name


def names_in(document: Record) -> Iterator[str]:
    """The data sets that a bridge's document names."""
    for part in (document["config"]["data"], document["training"]):
        yield from (name.strip() for name in str(part.get("dataset") or "").split(",") if name.strip())
        yield from map(str, part.get("mix") or ())


def public_reports(reports: Sequence[Record], names: Names) -> list[dict[str, Any]]:
    """Evaluations without what only their makers need."""
    return [names.of(_kept(report)) for report in reports]


def _kept(report: Record) -> dict[str, Any]:
    kept = {key: report[key] for key in REPORT if key in report}
    manifest = report.get("manifest") or {}
    return {**kept, "manifest": {key: manifest[key] for key in _MANIFEST if key in manifest}}


def public_config(config: Record, names: Names) -> dict[str, Any]:
    """A configuration that reads the same on any machine."""
    return names.of(
        {
            section: {key: value for key, value in values.items() if key not in _PLACES.get(section, ())}
            if isinstance(values, Mapping)
            else values
            for section, values in config.items()
        }
    )


def _short(name: str) -> str:
    family, colon, path = name.partition(":") if is_local_data(name) else ("", "", name)
    return family + colon + (_last(path) or "data")


def _last(path: str) -> str:
    return PureWindowsPath(path).name if "\\" in path else path.rstrip("/").rpartition("/")[2].strip("~.") or "path"


def _unlike(name: str, taken: Iterable[str]) -> str:
    """`name`, numbered if it is taken."""
    used, number, found = set(taken), 2, name
    while found in used:
        number, found = number + 1, f"{name}-{number}"
    return found
