"""Who a hub is: its address, who may see a token, and its client's errors in our words."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from portable.errors import DiskError, NetworkError, NotOnHub, PortableError, UsageError

# A token goes to these hosts and to the one in PORTABLE_TOKEN_HOST: a mirror never sees it.
TOKEN_HOSTS = ("huggingface.co", "modelscope.cn", "modelscope.ai")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DISK = {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT, errno.ENOTDIR} | _FULL
# What a client does when the answer is JSON of another shape, or no JSON at all.
_NONSENSE = (ValueError, KeyError, TypeError, AttributeError, AssertionError)
_CLIENTS = {"httpx2", "httpcore2", "requests", "urllib3", "modelscope_hub", "huggingface_hub"}


class Damaged(Exception):
    """A file arrived whole, and is not the one that the hub lists; its bytes are gone already."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"expected {expected}, got {got}")


class Site(ABC):
    """A hub's own names, and what went wrong there."""

    key: str
    title: str
    endpoint_variable: str
    token_variable: str

    @property
    @abstractmethod
    def endpoint(self) -> str:
        """Where the hub is, from the environment as it is now, without a slash at the end."""

    @property
    def host(self) -> str:
        """For messages: an address may carry a password, a host name does not."""
        return urlsplit(self.endpoint).hostname or "?"

    @property
    def may_send_token(self) -> bool:
        host = self.host.lower()
        official = any(host == h or host.endswith("." + h) for h in TOKEN_HOSTS)
        return official or host == os.environ.get("PORTABLE_TOKEN_HOST", "").lower()

    @property
    def way_out(self) -> str:
        other = "hf://org/name asks Hugging Face" if self.key == "ms" else "ms:// asks ModelScope"
        return (
            f"check the network and HTTPS_PROXY, or name a mirror in {self.endpoint_variable}; "
            f"{other}; --offline uses what is on this disk"
        )

    def offline(self, repo: str) -> NetworkError:
        return NetworkError(
            f"{repo} is not on this disk, and offline nothing is downloaded",
            hint="go online once, without --offline, PORTABLE_OFFLINE and HF_HUB_OFFLINE",
        )

    @contextmanager
    def explained(self, repo: str, revision: str | None) -> Iterator[None]:
        """The client's errors become ours; anything that is a bug stays as it is."""
        try:
            yield
        except (PortableError, Damaged):
            raise
        except Exception as error:
            known = type(error).__module__.partition(".")[0] in _CLIENTS
            if not known and isinstance(error, _NONSENSE):
                raise self.nonsense("something that is not what a hub says") from error
            if not known and not isinstance(error, OSError):
                raise
            raise self._explain(error, repo, revision) from error

    def nonsense(self, what: str) -> NetworkError:
        return NetworkError(
            f"{self.title} ({self.host}) answers with {what}",
            hint=f"is there a login page on this network? is {self.endpoint_variable} right?",
        )

    def _explain(self, error: Exception, repo: str, revision: str | None) -> PortableError:
        response = getattr(error, "response", None)
        status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if "HFValidationError" in kinds:
            return UsageError(f"{repo!r} is not a model id", hint="an id looks like org/name")
        if isinstance(error, OSError) and error.errno in _DISK:
            full = error.errno in _FULL
            hint = "free some space" if full else "check that folder and its permissions"
            return DiskError(f"cannot store {repo}: {error.strerror}", hint=hint)
        if "GatedRepoError" in kinds or status == 403:
            return self._refused(repo)
        # Hugging Face says 401 for what does not exist, too.
        if status == 404 or kinds & {"RepositoryNotFoundError", "NotExistError"}:
            return self._not_found(repo, revision)
        if status == 401:
            return self._refused(repo)
        what = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        return NetworkError(f"{self.title} ({self.host}): {what}", hint=self.way_out)

    def _not_found(self, repo: str, revision: str | None) -> NotOnHub:
        name = f"{repo} at revision {revision}" if revision else repo
        other = "hf://" if self.key == "ms" else "ms://"
        hint = f"check the spelling; {other}{repo} asks the other hub"
        return NotOnHub(
            f"{self.title} ({self.host}) has no model {name}, or it is private",
            hint=f"{hint}; for a private one set {self.token_variable}",
        )

    def _refused(self, repo: str) -> UsageError:
        page = self._page(repo)
        hint = f"check its name, accept its licence at {page} and set {self.token_variable}"
        if not self.may_send_token:
            hint += f"; a token goes to {self.host} only with PORTABLE_TOKEN_HOST={self.host}"
        return UsageError(
            f"{self.title} ({self.host}) refuses {repo}: it is gated, private or not there",
            hint=hint,
        )

    @abstractmethod
    def _page(self, repo: str) -> str:
        """The address of the model for a person."""
