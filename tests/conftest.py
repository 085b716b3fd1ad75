"""Trained histories and the tables computed from them, made once and only for tests that ask."""

import fcntl
import os
import shutil
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from unittest import mock

import duckdb
import pytest
from threadpoolctl import threadpool_limits

from sedarchive.compute.matrix import matrix_nulls, matrix_rows
from sedarchive.compute.refresh import ComputeOptions, compute
from sedarchive.compute.rolling import null_rows as null_tables
from sedarchive.ingest import IngestOptions, ingest
from sedarchive.nulls.bands import null_bands
from sedarchive.tables import Database

# in the background of a shell, tests and their children would be deaf to the interrupts that some of them send
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SCOPES = (
    "layer:0-1",
    "role:query",
    "role:value",
    "role:up",
    "tensor:transformer.h.0.attn.c_attn.weight",
    "tensor:gpt_neox.layers.1.attention.query_key_value.weight:key",
    "tensor:still.weight",
    "outputs=*.attn.c_proj.weight,*.dense.weight,*.out_proj.weight",
)


@dataclass(frozen=True)
class Analysis:
    """An archive with its database."""

    archive: Path
    database: Path

    def ingest(self, *paths, **options):
        reports = ingest(paths, self.archive, IngestOptions(**options))
        assert [report.error for report in reports] == [None] * len(reports)
        return reports

    def compute(self, **options):
        """Compute with a null of few draws: what it is worth is shown elsewhere, and it takes most of the time."""
        with mock.patch.object(null_tables, "null_bands", partial(null_bands, draws=19)):
            return compute(self.archive, self.database, ComputeOptions(**options))

    def rows(self, sql, parameters=None):
        with Database.read(self.database) as database:
            return database.rows(sql, parameters).rows


@pytest.fixture
def analysis(tmp_path):
    """An archive and a database that do not exist yet."""
    return Analysis(tmp_path / "archive.zarr", tmp_path / "archive.duckdb")


@pytest.fixture(scope="session", autouse=True)
def one_blas_thread():
    """Of several threads each, two processes are in each other's way: small SVDs take ten times as long."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session", autouse=True)
def disk_not_waited_for():
    """Let no write of this process wait for the disk: what a cut of power leaves is not seen here, only what is asked.

    The commands that tests start in processes of their own wait as ever.
    """
    with mock.patch("os.sync", return_value=None), mock.patch("os.fsync", return_value=None):
        yield


@pytest.fixture(scope="session", autouse=True)
def nulls_of_matrices_drawn_once():
    """Draw the null of a shape once a process, and few: every new database asks for it.

    It depends on nothing else, and what all its draws are worth test_gaussian_matrices.py shows.
    """
    few = mock.patch.multiple(matrix_rows, MOST_DRAWS=20, FEWEST_DRAWS=20)
    with few, mock.patch.object(matrix_nulls, "null_columns", cache(matrix_nulls.null_columns)):
        yield


@pytest.fixture(scope="session", autouse=True)
def tables_made_once(tmp_path_factory):
    """Begin a new database as a copy of an empty one: to make its tables, and 460 comments, takes six times as long."""
    empty = tmp_path_factory.mktemp("tables") / "empty.duckdb"
    Database.create_or_open(empty, "nobody").close()
    opened, connect = Database.create_or_open.__func__, duckdb.connect  # not what a test may put in their place

    def create_or_open(cls, path, archive_id, patience=10.0):
        if not Path(path).exists() and os.access(Path(path).parent, os.W_OK):
            shutil.copyfile(empty, path)
            with connect(str(path)) as connection:
                connection.execute("UPDATE schema_meta SET value = ? WHERE key = 'archive_id'", [archive_id])
        return opened(cls, path, archive_id, patience)

    with mock.patch.object(Database, "create_or_open", classmethod(create_or_open)):
        yield


@contextmanager
def made_once(tmp_path_factory, name):
    """Folder that one of the processes of a session makes, and whether it is this one; the others wait."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / "done"
        yield folder, not done.exists()
        done.touch()


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Folder with all trained runs; to be read only."""
    from histories import write_trained

    with made_once(tmp_path_factory, "trained") as (folder, first):
        return write_trained(folder / "runs") if first else folder / "runs"


@pytest.fixture(scope="session")
def wide(tmp_path_factory):
    """Folder of one run of a matrix of 640 KiB."""
    from histories import write_wide

    return write_wide(tmp_path_factory.mktemp("wide"))


@pytest.fixture(scope="session")
def computed(trained, tmp_path_factory):
    """All trained runs in tables, with every kind of scope; to be read only."""
    with made_once(tmp_path_factory, "computed") as (folder, first):
        made = Analysis(folder / "archive.zarr", folder / "archive.duckdb")
        if first:
            made.ingest(trained)
            reports = made.compute(windows=(3,), scopes=SCOPES, inference=False)
            assert [report.error for report in reports] == [None] * len(reports)
    with Database.read(made.database):  # a file that is open here is opened again in no time
        yield made
