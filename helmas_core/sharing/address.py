"""Where a bridge is shared: a repository of the hub, or a folder. No torch here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from helmas_core.errors import ConfigError

_NAME = r"[A-Za-z0-9_][\w.-]*"
_REVISION = r"[A-Za-z0-9_][\w./-]*"
_ID = re.compile(rf"(?P<id>{_NAME}/{_NAME})(?:@(?P<revision>{_REVISION}))?", re.ASCII)
_PAGE = re.compile(rf"/(?P<id>{_NAME}/{_NAME})(?:/tree/(?P<revision>{_REVISION}))?/?", re.ASCII)
_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_FIX = "write owner/name, the address of a model on the hub, or a folder as ./folder"


@dataclass(frozen=True)
class Repository:
    """A model repository of the hub; `revision` is a branch, a tag or a commit, None for its main branch."""

    id: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.id}@{self.revision}" if self.revision else self.id

    @property
    def name(self) -> str:
        return self.id.partition("/")[2]


def target(text: str, revision: str | None = None) -> Repository | Path:
    """What `push` and `pull` are told: `owner/name`, with `@revision` or not, a page of the hub, or a folder, which
    begins with `.`, `/` or `~`. ConfigError for anything else, and for a name that could be either."""
    if _looks_local(text):
        if revision:
            raise ConfigError("a folder has no revisions", where="--revision", fix="leave it out")
        return Path(text).expanduser()
    found = repository(text)
    if found is None:
        raise ConfigError("neither a repository of the hub nor a folder", where=text, fix=_FIX)
    if "://" not in text and Path(text).exists():
        raise ConfigError(
            "could be the hub's or the folder here", where=text, fix=f"write ./{text} or https://{_HOSTS[0]}/{text}"
        )
    if revision and found.revision not in (None, revision):
        raise ConfigError(f"also asked for {found.revision}", where="--revision", fix="name one revision")
    return _with_revision(found, revision)


def repository(text: str) -> Repository | None:
    """The repository that `text` names, whether there is one or not; None if it does not look like one.

    ConfigError for the address of something else on the web.
    """
    if "://" in text:
        return _of_page(text)
    found = _ID.fullmatch(text)
    return Repository(found["id"], found["revision"]) if found and ".." not in text else None


def shared_bridge(text: str) -> Repository | None:
    """The repository that `--bridge text` means: one that looks like it, and no file or folder of this machine."""
    here = Path(text).expanduser()
    if "://" in text:
        return repository(text)
    if here.exists() or here.suffix == ".safetensors" or _looks_local(text) or Path(text.partition("/")[0]).is_dir():
        return None
    return repository(text)


def _looks_local(text: str) -> bool:
    return text.startswith((".", "/", "~", "\\")) or Path(text).is_absolute()


def _of_page(text: str) -> Repository:
    from huggingface_hub import constants

    parts = urlsplit(text)
    found = _PAGE.fullmatch(unquote(parts.path))
    ours = {*_HOSTS, urlsplit(constants.ENDPOINT).hostname}
    if parts.scheme not in ("http", "https") or parts.hostname not in ours or not found or ".." in found[0]:
        raise ConfigError("not the address of a model on the hub", where=_without_secrets(text), fix=_FIX)
    return Repository(found["id"], found["revision"])


def _without_secrets(text: str) -> str:
    """An address without the name and password that it may hold."""
    return re.sub(r"(?<=://)[^/]*@", "", text)


def _with_revision(found: Repository, revision: str | None) -> Repository:
    if revision is None:
        return found
    if not re.fullmatch(_REVISION, revision, re.ASCII) or ".." in revision:
        raise ConfigError(
            f'no name of a revision: "{revision}"', where="--revision", fix="name a branch, tag or commit"
        )
    return Repository(found.id, revision)
