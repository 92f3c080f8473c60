"""Packs on the Hugging Face Hub: fetch, pull, push. It knows repositories; what a pack is, packs.py knows.

huggingface_hub does the work: it caches, locks and resumes. Here are the few tries, the check of what came, and one
sentence for whatever goes wrong.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmdemo import loading, packs, provenance
from mmdemo.errors import MmdemoError, PackError
from mmdemo.packs import Pack

Report = Callable[[int, int], None]  # told how many bytes have come, of how many
WAITS = (1.0, 4.0)  # seconds before another try, where the Hub failed or the line was cut
AT_ONCE = threading.Semaphore(4)  # what is fetched in the background; more of it waits
REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+(?:/[\w.-]+)*))?")
INDEX = "model_index.json"
# Where it came from is not told by a repository; hidden files are a program's.
OTHERS = [provenance.SOURCE, ".*", "*/.*"]
PARTS = [f"{part}/*" for part in ("vae", "transformer", "student", "scheduler", "tokenizer", "codebook", "examples")]


def fetch(repo: str, report: Report | None = None) -> tuple[Path, str]:
    """A pack's files, in the Hub's cache: the folder, and the commit that they are of.

    repo: `owner/name`, or `owner/name@revision` with a branch, a tag or a commit.  report: None = nobody is told.
    What is in the cache is not downloaded again, and opens without a network. Every file is held against its hash,
    where the cache names it (that is, where the system has symbolic links).
    Raises PackError: no such repository or revision, no access, no network, or a damaged file, which is then removed.
    """
    name, revision = parts(repo)
    with in_one_sentence(name, revision):
        folder = _persistently(lambda: _download(name, revision, report))
        damaged = [file for file in _files(folder) if _is_damaged(folder / file)]
        for file in damaged:
            _remove(folder / file)
    if damaged:
        raise PackError(f"{repo} came damaged ({', '.join(damaged[:3])}); fetch it again to replace what is damaged")
    return folder, folder.name


class Fetch(threading.Thread):
    """A repository on its way, in a thread of its own. Until it is here, `pack` says in its problem how far it is."""

    def __init__(self, repo: str):
        super().__init__(name=f"fetch {repo}", daemon=True)
        self.repo = repo
        self.share = 0.0  # of its bytes that have come
        self.pack = Pack(repo, Path(repo), "being fetched")
        self.ended: float | None = None  # by time.monotonic(); None = it goes on

    def run(self) -> None:
        pack = Pack(self.repo, Path(self.repo), "it could not be fetched")  # where this thread dies of a mistake here
        try:
            with AT_ONCE:
                pack = packs.read(fetch(self.repo, self._report)[0], self.repo)
        except PackError as error:
            pack = Pack(self.repo, Path(self.repo), str(error))
        finally:
            self.pack, self.ended = pack, time.monotonic()

    def _report(self, come: int, size: int) -> None:
        self.share = min(1.0, come / size) if size else 0.0
        self.pack = Pack(self.repo, Path(self.repo), f"being fetched: {100 * self.share:.0f} %")


def pull(repo: str, weights: str | Path, name: str | None = None, report: Report | None = None) -> Path:
    """Fetch a pack, check that it can be used, and put it among those in a folder. Returns where.

    name: the new folder's; None = the repository's. A pack pulled from the same repository before is replaced; any
    other of that name stays, and PackError is raised.  Raises it also for what fetch() does, and for a damaged pack.
    Of two pulls by one name the second waits for the first.
    """
    repository, revision = parts(repo)
    place = packs.place(weights, name or repository.split("/")[1])
    with _one_at_a_time(place.name):
        _may_be_replaced(place, repository)
        folder, commit = fetch(repo, report)
        _can_be_used(packs.read(folder, repo))
        place.parent.mkdir(parents=True, exist_ok=True)
        for left in place.parent.glob(f".{place.name}.*.new"):  # by a pull that was killed: one at a time is here
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.", suffix=".new") as beside:
            new, old = Path(beside, "new"), Path(beside, "old")
            copy(folder, new)
            source = {"repo": repository, "revision": revision or "main", "commit": commit}
            (new / provenance.SOURCE).write_text(json.dumps(source, indent=1) + "\n", encoding="utf-8")
            _may_be_replaced(place, repository)  # still
            if place.exists():
                os.replace(place, old)
            os.replace(new, place)
    return place


def push(pack: Path, repo: str, private: bool = False) -> tuple[str, str]:
    """Upload a pack and its card, as one commit, to a repository that is made if it is not there.

    Parts that an earlier push left there and the pack no longer has are removed. An upload that is cut off leaves the
    repository as it was. Returns the commit's address and its id.
    Raises PackError: the pack cannot be used, the Hub refuses or cannot be reached, or `private` and it is public.
    """
    name, revision = parts(repo)
    if revision:
        raise PackError(f"{repo} names a revision; a pack is pushed to owner/name, where it becomes the newest")
    _can_be_used(packs.read(pack))
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils import filter_repo_objects

    with in_one_sentence(name, sends=True):
        hub = HfApi()
        hub.create_repo(name, private=private, exist_ok=True)
        there = hub.model_info(name)
        if private and not there.private:
            raise PackError(f"{name} is there already and is public; choose another name, or push without --private")
        files = _files(pack)
        stale = filter_repo_objects({one.rfilename for one in there.siblings} - set(files), allow_patterns=PARTS)
        changes = [CommitOperationDelete(file) for file in stale]
        changes += [CommitOperationAdd(file, pack / file) for file in files]
        # Not upload_folder, which makes several commits of a large folder.
        made = hub.create_commit(name, changes, commit_message=f"{pack.name}, a pack of mmdemo")
    return made.commit_url, made.oid


def copy(pack: Path, new: Path) -> None:
    """A pack's files, and no others, into a new folder; what the Hub's cache links to becomes a file."""
    for file in _files(pack):
        (new / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(pack / file, new / file)


def parts(repo: str) -> tuple[str, str | None]:
    """The repository's name and the revision, if one is named.  Raises PackError for what names none."""
    found = REPOSITORY.fullmatch(repo)
    if not found or ".." in repo:
        raise PackError(f"repository is {repo!r}; it must be owner/name or owner/name@revision")
    return found[1], found[2]


def _download(name: str, revision: str | None, report: Report | None) -> Path:
    """What is wanted of a repository, which the first file says; the rest of that same commit follows."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # what it would warn of is tried again, or said in one sentence
    folder = Path(snapshot_download(name, revision=revision, allow_patterns=[INDEX], tqdm_class=_bar()))
    wanted = {"allow_patterns": _wanted(folder), "ignore_patterns": [*OTHERS, INDEX]}
    bar = _bar(report, _size(name, folder.name, **wanted)) if report else _bar()
    return Path(snapshot_download(name, revision=folder.name, tqdm_class=bar, **wanted))


def _wanted(folder: Path) -> list[str]:
    return packs.wanted(packs.read_json(folder / INDEX) if (folder / INDEX).is_file() else {})


def _size(name: str, commit: str, **wanted) -> int:
    """The bytes of these files; 0 = not known, as without a network."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError
    from huggingface_hub.utils import filter_repo_objects

    try:
        files = HfApi().model_info(name, revision=commit, files_metadata=True).siblings
    except (HTTPError, OSError):  # what is wrong is seen again by the download, unless the cache has it all
        return 0
    return sum(file.size or 0 for file in filter_repo_objects(files, key=lambda file: file.rfilename, **wanted))


def _bar(report: Report = lambda come, size: None, size: int = 0) -> type:
    """What snapshot_download takes to be a progress bar: it shows nothing, and reports the bytes."""
    from huggingface_hub.utils import tqdm

    most = 0  # of several bars: what has crossed the line, and what is on the disk

    class Bar(tqdm):
        def __init__(self, *arguments, **options):
            self.counts_bytes, self.come = options.get("unit") == "B", 0
            super().__init__(*arguments, **options | {"disable": True})

        def update(self, n: int | None = 1) -> None:
            nonlocal most
            with self.get_lock():
                self.come += n or 0
                if self.counts_bytes and self.come > most:
                    most = self.come
                    report(most, max(size, most))

    return Bar


def _persistently(work: Callable[[], Path]) -> Path:
    """What work returns, after a few tries if need be."""
    from huggingface_hub.errors import HTTPError

    for wait in WAITS:
        try:
            return work()
        except (HTTPError, OSError) as error:
            if not _may_pass(error):
                raise
            time.sleep(wait)
    return work()


def _may_pass(error: BaseException) -> bool:
    """Whether another try may help: the Hub is busy, or the line was cut. No network at all is no such case."""
    from huggingface_hub.errors import HTTPError

    status = _status(error)
    return status == 429 or status >= 500 if status else isinstance(error, HTTPError)


def _status(error: BaseException) -> int | None:
    """What the Hub answered, if it did."""
    answers = (getattr(one, "response", None) for one in _causes(error))
    return next((answer.status_code for answer in answers if answer is not None), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


@contextmanager
def in_one_sentence(name: str, revision: str | None = None, sends: bool = False) -> Iterator[None]:
    """The border to the Hub, its library and the network between: whatever goes wrong there becomes one PackError.

    sends: whether something is uploaded, rather than fetched.
    """
    try:
        yield
    except MmdemoError:
        raise
    except Exception as error:
        raise PackError(_sentence(name, revision, error, sends)) from error


def _sentence(name: str, revision: str | None, error: Exception, sends: bool) -> str:
    from huggingface_hub import constants, errors

    def is_a(*kinds: type) -> bool:
        return any(isinstance(one, kinds) for one in _causes(error))

    status = _status(error)
    if is_a(errors.GatedRepoError):
        return f"{name} is gated: ask for access at {constants.ENDPOINT}/{name}, then log in with `hf auth login`"
    if is_a(errors.RevisionNotFoundError):
        return f"{name} has no revision {revision!r}; name a branch, a tag or a commit of it, or none for the newest"
    if is_a(errors.RepositoryNotFoundError):
        return f"there is no {name} on the Hub, or it is private; check the name, or log in with `hf auth login`"
    if status in (401, 403):
        return f"the Hub refuses access to {name}; log in with `hf auth login`, with a token that allows it"
    if status:
        return f"the Hub answered {status} when asked for {name}; try again later"
    if is_a(errors.HTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        if sends:
            return f"the Hub cannot be reached, so {name} was not uploaded; with a network, give the same command again"
        return f"the Hub cannot be reached, and {name} is not in its cache whole; try again with a network"
    reason = " ".join(str(error).split())[:200]
    return f"the exchange of {name} with the Hub failed ({type(error).__name__}: {reason})"


def _files(folder: Path) -> list[str]:
    """The files that a pack is made of, by their paths in it."""
    from huggingface_hub.utils import filter_repo_objects

    found = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return list(filter_repo_objects(found, allow_patterns=_wanted(folder), ignore_patterns=OTHERS))


def _is_damaged(file: Path) -> bool:
    """Whether a file in the Hub's cache is not what its hash says."""
    from huggingface_hub.utils.sha import git_hash, sha_fileobj

    if not file.is_symlink():
        return False
    named = Path(os.readlink(file)).name  # blobs/HASH: SHA-256 of a large file, what git calls it of another
    if len(named) == 64:
        with file.open("rb") as opened:
            return sha_fileobj(opened).hex() != named
    return len(named) == 40 and git_hash(file.read_bytes()) != named


def _remove(file: Path) -> None:
    """From the Hub's cache, so that it is downloaded again: the link, and what it leads to."""
    file.resolve().unlink(missing_ok=True)
    (file.parent / os.readlink(file)).unlink(missing_ok=True)  # which may be a link itself
    file.unlink()


@contextmanager
def _one_at_a_time(name: str) -> Iterator[None]:
    from huggingface_hub import constants
    from huggingface_hub.utils import WeakFileLock

    locks = Path(constants.HF_HUB_CACHE, ".locks")  # where the Hub's library has its own
    locks.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(locks / f"mmdemo-{name}.lock"):
        yield


def _may_be_replaced(place: Path, repository: str) -> None:
    if place.exists() and provenance.source(place).get("repo") != repository:
        raise PackError(f"there is a pack at {place} that is not from {repository}; choose another name with --name")


def _can_be_used(pack: Pack) -> None:
    """Raises PackError unless its models can be loaded."""
    loading.load(pack, "cpu")
