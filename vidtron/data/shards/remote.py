"""Files of stores that fsspec opens: s3://, gs://, http(s)://, memory://, file://..."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vidtron.data.errors import ShardError

_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
_SILENCE_SECONDS = 60


class MissingFileError(FileNotFoundError):
    """There is no such file in the store."""


class OtherSizeError(ValueError):
    """A file of another size than it should have."""


def is_url(location: str | Path) -> bool:
    """Whether a folder is not simply a path."""
    return "://" in str(location)


def size_of(url: str) -> int | None:
    """Bytes of a file, None where its store does not tell. Errors as `copy`."""
    size = _info(url).get("size")
    return None if size is None else int(size)


def state_of(url: str) -> str:
    """Changes when the file changes, as far as its store tells (time, ETag...). Errors as `copy`."""
    return repr(sorted(_info(url).items()))


def exists(url: str) -> bool:
    """Whether there is such a file. Errors as `copy`, but for a missing file."""
    try:
        size_of(url)
    except MissingFileError:
        return False
    return True


def copy(url: str, target: Path) -> None:
    """Copy a file, read from its beginning to its end, over a local one.

    Raises:
        MissingFileError: there is none.
        OSError: it cannot be read now.
        ShardError: the package that opens such URLs is not installed, or there is none.
    """
    filesystem, path = _filesystem(url)
    with _errors_of_stores(url):
        filesystem.get_file(path, str(target))


def _info(url: str) -> dict[str, Any]:
    filesystem, path = _filesystem(url)
    with _errors_of_stores(url):
        return dict(filesystem.info(path))


def _filesystem(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    protocol = url.partition("://")[0]
    options: dict[str, Any] = {}
    try:
        if protocol in ("http", "https"):
            import aiohttp

            # Its own limit is five minutes for a whole file.
            options["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(total=None, sock_read=_SILENCE_SECONDS)}
        return url_to_fs(url, **options)
    except ImportError as error:
        package = _PACKAGES.get(protocol, "")
        accepted = f"`pip install {package}`" if package else "the package that it names"
        raise ShardError(f"{url}: {protocol}:// needs a package ({error}); accepted: {accepted}") from error
    except ValueError as error:
        raise ShardError(
            f"{url}: fsspec opens no {protocol}:// ({error}); accepted: a path, s3://, gs://, https://"
        ) from error


@contextmanager
def _errors_of_stores(url: str) -> Iterator[None]:
    """Clients of stores have errors of their own; which of them may pass cannot be told, so all become OSError."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingFileError(f"{url}: there is no such file") from error
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{url}: {type(error).__name__}: {error}") from error
