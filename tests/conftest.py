"""Trained histories and the tables computed from them, made once a session and only for tests that ask."""

import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

from sedarchive.compute import null_rows as null_tables
from sedarchive.compute.refresh import ComputeOptions, compute
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


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Folder with all trained runs."""
    from histories import write_trained

    return write_trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def wide(tmp_path_factory):
    """Folder of one run of a matrix of 640 KiB."""
    from histories import write_wide

    return write_wide(tmp_path_factory.mktemp("wide"))


@pytest.fixture(scope="session")
def computed(trained, tmp_path_factory):
    """All trained runs in tables, with every kind of scope; to be read only."""
    folder = tmp_path_factory.mktemp("computed")
    made = Analysis(folder / "archive.zarr", folder / "archive.duckdb")
    made.ingest(trained)
    reports = made.compute(windows=(3,), scopes=SCOPES, inference=False)
    assert [report.error for report in reports] == [None] * len(reports)
    return made
