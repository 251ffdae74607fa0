"""Shared bridges on the hub: look, send, fetch. The only file that asks huggingface_hub for them.

`PyTorchModelHubMixin` is not used: its `from_pretrained` builds a model from a configuration alone, while a bridge is
built for a pair that is loaded already, and its one file says which.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx

from helmas_core.errors import ConfigError, HelmasError, HubError, UnreachableError
from helmas_core.runs import BRIDGE
from helmas_core.sharing.address import Repository
from helmas_core.sharing.folder import CARD, shareable

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
_NETWORK = "check the network, or give a folder: ./folder"
_ALWAYS_THERE = (".gitattributes", CARD)


@dataclass(frozen=True)
class State:
    """What a repository is now."""

    private: bool
    commit: str
    files: tuple[str, ...]


def _api() -> HfApi:
    """Whoever is logged in, or HF_TOKEN, at HF_ENDPOINT."""
    return HfApi(library_name="helmas", library_version=version("helmas"))


@contextmanager
def _told(repository: Repository) -> Iterator[None]:
    """Whatever goes wrong on the way to the hub as one of our errors."""
    try:
        yield
    except HelmasError:
        raise
    except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        raise _explained(error, repository) from error


def _explained(error: Exception, repository: Repository) -> HubError:
    where = str(repository)
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):  # of one of several uploads
        return _explained(error.__cause__, repository)
    if isinstance(error, OfflineModeIsEnabled) or isinstance(error.__cause__, OfflineModeIsEnabled):
        fix = "unset HF_HUB_OFFLINE, or give a folder: ./folder"
        return UnreachableError("the hub is switched off here", where=where, fix=fix)
    if isinstance(error, GatedRepoError):
        return HubError("access has to be granted", where=where, fix="ask for it on the repository's page")
    if isinstance(error, RevisionNotFoundError):
        return HubError(f'no revision "{repository.revision}"', where=where, fix="name a branch, a tag or a commit")
    if isinstance(error, RepositoryNotFoundError):
        what = "no such repository, or a private one that is closed to you"
        return HubError(what, where=where, fix=f"check the name, or {_LOG_IN}")
    if isinstance(error, HfHubHTTPError):
        return _refused(error, where)
    if isinstance(error, httpx.HTTPError | LocalEntryNotFoundError):
        return UnreachableError(f"the hub cannot be reached ({type(error).__name__})", where=where, fix=_NETWORK)
    return HubError(f"{type(error).__name__}: {error}", where=where)


def _refused(error: HfHubHTTPError, where: str) -> HubError:
    status = error.response.status_code
    if status in (401, 403):
        return HubError(f"not allowed ({status})", where=where, fix=f"{_LOG_IN}, with a token that may do this")
    said = f": {error.server_message}" if error.server_message else ""
    return HubError(f"the hub answers {status}{said}", where=where, fix="try again later")


class Hub:
    """A repository of the hub as a place to share a bridge."""

    def __init__(self, repository: Repository, private: bool = False) -> None:
        self.repository, self.private = repository, private
        self.state: State | None = None

    @property
    def address(self) -> str:
        return str(self.repository)

    @property
    def name(self) -> str:
        return self.repository.name

    def look(self) -> str:
        self.state = look(self.repository)
        check_target(self.repository, self.state, self.private)
        seen = "private" if (self.state.private if self.state else self.private) else "public"
        return f"in {'the' if self.state else 'a new'} {seen} repository {self.address}"

    def card(self) -> str:
        return card_of(self.repository, self.state)

    def send(self, files: Mapping[str, bytes | Path]) -> dict[str, str]:
        return send(self.repository, files, self.state, self.private)

    def fill(self, folder: Path) -> str:
        return fetch(self.repository, folder)


def look(repository: Repository) -> State | None:
    """What is there; None for nothing, or nothing that we may see. A branch that is not there yet begins as main."""
    with _told(repository):
        try:
            return _state(repository)
        except RevisionNotFoundError:
            return _state(Repository(repository.id))
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            return None


def _state(repository: Repository) -> State:
    found = _api().model_info(repository.id, revision=repository.revision)
    files = tuple(one.rfilename for one in found.siblings or ())
    return State(bool(found.private), str(found.sha), files)


def check_target(repository: Repository, state: State | None, private: bool) -> None:
    """ConfigError for a repository of something else, or one that everybody sees and should not."""
    if state is None:
        return
    others = [name for name in state.files if name not in _ALWAYS_THERE]
    if others and BRIDGE not in others:
        what = f"holds something else, {others[0]} for one"
        raise ConfigError(what, where=str(repository), fix="choose another repository")
    if private and not state.private:
        fix = "make it private on its page, or choose another repository"
        raise ConfigError("is there already, and public", where=str(repository), fix=fix)


def card_of(repository: Repository, state: State | None) -> str:
    """The card that lies there; "" without one."""
    if state is None or CARD not in state.files:
        return ""
    with _told(repository):
        path = _api().hf_hub_download(repository.id, CARD, revision=state.commit, cache_dir=cache())
    return Path(path).read_text("utf-8", errors="replace")


def send(
    repository: Repository, files: Mapping[str, bytes | Path], state: State | None, private: bool = False
) -> dict[str, str]:
    """Make the repository's files of ours exactly `files`, in one commit: {"where": its page, "commit"}."""
    api, branch = _api(), repository.revision
    gone = [name for name in (state.files if state else ()) if shareable(name) and name not in files]
    with _told(repository):
        if state is None:
            api.create_repo(repository.id, private=True if private else None, exist_ok=False)
        if branch is not None:
            api.create_branch(repository.id, branch=branch, exist_ok=True)
        operations = [
            *(CommitOperationAdd(name, content) for name, content in files.items()),
            *(CommitOperationDelete(name) for name in gone),
        ]
        message = f"A bridge, shared with helmas {version('helmas')}"
        done = api.create_commit(repository.id, operations, commit_message=message, revision=branch)
    page = f"{api.endpoint}/{repository.id}" + (f"/tree/{branch}" if branch else "")
    return {"where": page, "commit": done.oid}


def fetch(repository: Repository, folder: Path) -> str:
    """Download the files of a shared bridge, and no others, to `folder`; returns the commit that they are of."""
    with _told(repository):
        state = _shared_state(repository)
        _download(Repository(repository.id, state.commit), state, local_dir=folder)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return state.commit


def fetch_cached(repository: Repository, note: Callable[[str], None] = lambda _: None) -> Path:
    """The folder of a shared bridge in the cache, brought up to date where the hub can be reached."""
    with _told(repository):
        try:
            with _told(repository):
                state = _shared_state(repository)
                note(f"bridge {repository.id} at {state.commit[:8]}")
                return _download(repository, state, cache_dir=cache())
        except UnreachableError as error:
            try:
                found = _download(repository, None, cache_dir=cache(), local_files_only=True)
            except LocalEntryNotFoundError:
                raise error from None
            note(f"{error.what}: using {repository} as it was fetched before")
            return found


def _shared_state(repository: Repository) -> State:
    state = _state(repository)
    if BRIDGE not in state.files:
        fix = "give the name of a shared bridge"
        raise HubError(f"holds no {BRIDGE}", where=str(repository), fix=fix)
    return state


def _download(repository: Repository, state: State | None, **where: Any) -> Path:
    """Only names of ours are asked for, each as it stands: none of them holds a sign that means others."""
    wanted = [BRIDGE] if state is None else [name for name in state.files if shareable(name)]
    revision = repository.revision
    return Path(_api().snapshot_download(repository.id, revision=revision, allow_patterns=wanted, **where))


def cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("helmas") / "hub"
