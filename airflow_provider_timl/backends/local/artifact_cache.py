"""Artifacts on this machine's disk: fetched in the background, each once at a time, and removed when unused.

An artifact of a ``file://`` store is used where it is; others are copied to ``<data_dir>/artifact-cache``. An artifact
that was verified once is not read again at each restart of an instance, which has to be quick.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from pathlib import Path

from airflow_provider_timl.backends.contract import InstanceSpec
from airflow_provider_timl.backends.local.private_files import ensure_private_folder
from airflow_provider_timl.entities import FileDigest

FetchArtifact = Callable[[str, Sequence[FileDigest], Path], Path]
_MOST_FETCHES = 4
_PARTIAL = ".partial"


class ArtifactCache:
    """Called from one thread; ``fetch_artifact`` runs in others.

    Those are daemons: a controller that is told to end does not wait for a download. What it leaves is partial, and
    ``collect`` of the next one removes it.
    """

    def __init__(self, folder: Path, fetch_artifact: FetchArtifact) -> None:
        self._folder = folder
        self._fetch_artifact = fetch_artifact
        self._fetches: dict[str, Future[Path]] = {}
        self._slots = threading.Semaphore(_MOST_FETCHES)

    def fetch(self, spec: InstanceSpec) -> Future[Path]:
        """The folder with the verified files, when it is there. Asking again gives the same answer."""
        future = self._fetches.get(spec.artifact_uri)
        if future is None:
            future = self._fetches[spec.artifact_uri] = Future()
            threading.Thread(target=self._run, args=(spec, future), name="fetch", daemon=True).start()
        return future

    def forget(self, spec: InstanceSpec) -> None:
        """Fetch or verify it anew the next time: something was wrong with it."""
        future = self._fetches.get(spec.artifact_uri)
        if future is not None and future.done():
            del self._fetches[spec.artifact_uri]

    def collect(self, used: Collection[str]) -> None:
        """Remove what no instance uses and nobody fetches.

        :param used: artifact URIs of all instances.
        """
        running = {uri for uri, future in self._fetches.items() if not future.done()}
        kept = {uri for uri in self._fetches if uri in used} | running
        self._fetches = {uri: self._fetches[uri] for uri in kept}
        names = {_build_name(uri) for uri in (*used, *running)}
        fetching = {_build_name(uri) for uri in running}
        for path in self._folder.glob("*"):
            name = path.name.partition(".")[0]
            if name not in (fetching if path.name.endswith(_PARTIAL) else names):
                shutil.rmtree(path, ignore_errors=True)  # what cannot be removed now is tried again

    def _run(self, spec: InstanceSpec, future: Future[Path]) -> None:
        with self._slots:
            try:
                ensure_private_folder(self._folder)
                target = self._folder / _build_name(spec.artifact_uri)
                future.set_result(self._fetch_artifact(spec.artifact_uri, spec.files, target))
            except BaseException as exc:  # the thread's outermost frame: whoever waits must learn of it
                future.set_exception(exc)


def _build_name(artifact_uri: str) -> str:
    return hashlib.sha256(artifact_uri.encode()).hexdigest()[:32]
