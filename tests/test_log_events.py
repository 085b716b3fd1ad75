"""TensorBoard's event files: what they say, and what must not bring the reader down."""

import random
import struct
from pathlib import Path

import numpy as np
import pytest
from events import checksum, event, field, masked, record, simple, single, tensor, varint, write_events

from sedarchive.logs import read_metrics
from sedarchive.logs.tensorboard import event_rows

NAME = "events.out.tfevents.1700000000.host.1.0"


def read(path):
    return read_metrics([path], path.parent)


def table(metrics):
    return {(metric.name, metric.step): metric.value for metric in metrics}


def test_the_encoder_of_these_tests_is_that_of_tensorboard():
    assert checksum(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert (
        struct.pack("<Q", 24) + masked(struct.pack("<Q", 24)) == b'\x18\0\0\0\0\0\0\0\xa3\x7fK"'
    )  # every file's start


def test_scalars_of_an_event_file_become_metrics(tmp_path):
    path = write_events(
        tmp_path / NAME,
        event(0, simple("train/loss", 3.5), simple("train/learning_rate", 0.5)),
        event(100, simple("train/loss", 2.25)),
        event(100, simple("eval/loss", 2.5), simple("my tag", -1.0)),
        event(2**40, simple("train/loss", 1.0)),
    )
    metrics, findings = read(path)
    assert table(metrics) == {
        ("train_loss", 0): 3.5, ("lr", 0): 0.5, ("train_loss", 100): 2.25, ("val_loss", 100): 2.5,
        ("my tag", 100): -1.0, ("train_loss", 2**40): 1.0,
    }  # fmt: skip
    assert findings == ()
    assert {metric.source for metric in metrics} == {NAME}


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (field(1, 1) + field(2, b"") + single(5, 2.5), 2.5),
        (field(1, 1) + field(5, struct.pack("<f", 2.5)), 2.5),
        (field(1, 1) + field(4, struct.pack("<f", 2.5)), 2.5),
        (field(1, 2) + field(6, struct.pack("<d", 0.1)), 0.1),
        (field(1, 2) + field(6, 0.1), 0.1),
        (field(1, 2) + field(4, struct.pack("<d", 0.1)), 0.1),
        (field(1, 3) + field(7, 7), 7.0),
        (field(1, 9) + field(10, varint(-7)), -7.0),
        (field(1, 19) + field(13, 0x3C00), 1.0),
        (field(1, 1) + field(2, field(2, field(1, 1))) + single(5, 2.5), 2.5),
    ],
)
def test_a_tensor_of_one_number_is_a_scalar(tmp_path, body, value):
    metrics, _ = read(write_events(tmp_path / NAME, event(3, tensor("loss", body))))
    assert table(metrics) == {("train_loss", 3): value}


@pytest.mark.parametrize(
    "body",
    [
        field(1, 1) + field(2, field(2, field(1, 2))) + field(5, struct.pack("<ff", 1, 2)),
        field(1, 1) + field(4, b"\0" * 12),
        field(1, 7) + field(8, "text"),
        field(1, 1),
        b"",
        field(1, 1) + field(2, field(3, 1)) + single(5, 2.5),
    ],
)
def test_other_tensors_are_no_scalars(tmp_path, body):
    path = write_events(tmp_path / NAME, event(3, tensor("x", body), simple("loss", 1.0)))
    metrics, findings = read(path)
    assert (table(metrics), findings) == ({("train_loss", 3): 1.0}, ())


GOLDEN = Path(__file__).parent / "golden" / "events.out.tfevents.1795332812.host"


def test_what_tensorboard_itself_wrote_is_read():
    """Written by ``SummaryWriter`` of torch 2.13 and by TensorBoard 2.21's own messages, both styles of scalars."""
    metrics, findings = read(GOLDEN)
    single = [float(np.float32(3 - step / 100)) for step in (0, 10, 20)]
    assert table(metrics) == {
        ("train_loss", 0): single[0], ("train_loss", 10): single[1], ("train_loss", 20): single[2],
        ("val_loss", 0): 3.5, ("val_loss", 10): 3.25, ("val_loss", 20): 3.0, ("double", 10): 0.1,
        ("content", 30): 0.25, ("content/double", 30): 0.1, ("int32", 30): -3.0, ("int64", 30): -(2.0**40),
        ("half", 30): 1.5, ("vector of one", 30): 7.0, ("zero", 30): 0.0,
    }  # fmt: skip
    assert findings == ()


def test_histograms_images_and_graphs_are_passed_over(tmp_path):
    histogram = field(1, "h") + field(5, field(1, 0.0))
    path = write_events(
        tmp_path / NAME, event(1, histogram), field(2, 1) + field(4, b"graph"), event(1, simple("a", 1.0))
    )
    assert table(read(path)[0]) == {("a", 1): 1.0}


def test_folders_that_name_a_split_or_a_series_come_into_the_name(tmp_path):
    keras = write_events(tmp_path / "validation" / NAME, event(1, simple("loss", 2.0)))
    series = write_events(tmp_path / "loss_train" / NAME, event(1, simple("loss", 3.0)))
    metrics, findings = read_metrics([keras, series], tmp_path)
    assert table(metrics) == {("val_loss", 1): 2.0, ("train_loss", 1): 3.0}
    assert findings == ()


def test_what_stands_before_a_cut_is_kept(tmp_path):
    path = write_events(tmp_path / NAME, *(event(step, simple("loss", 1.0)) for step in range(3)))
    whole = path.read_bytes()
    last = len(record(event(2, simple("loss", 1.0))))
    for cut in (1, 3, 4, 5, last - 13, last - 11, last - 1):
        path.write_bytes(whole[:-cut])
        metrics, (finding,) = read(path)
        assert [metric.step for metric in metrics] == [0, 1]
        assert (finding.check_name, finding.severity) == ("unreadable_log", "warning")
        assert "cut off" in finding.detail
        assert str(path) in finding.detail


def test_a_flipped_bit_ends_the_reading_and_is_told(tmp_path):
    path = write_events(tmp_path / NAME, *(event(step, simple("loss", 1.0)) for step in range(3)))
    data = bytearray(path.read_bytes())
    data[-6] ^= 4
    path.write_bytes(data)
    metrics, (finding,) = read(path)
    assert [metric.step for metric in metrics] == [0, 1]
    assert "checksum" in finding.detail


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**40, 10**9])
def test_a_huge_length_is_never_believed(tmp_path, length):
    path = write_events(tmp_path / NAME, event(0, simple("loss", 1.0)))
    header = struct.pack("<Q", length)
    path.write_bytes(path.read_bytes() + header + masked(header) + b"rest")
    metrics, (finding,) = read(path)
    assert table(metrics) == {("train_loss", 0): 1.0}
    assert "cut off" in finding.detail


@pytest.mark.parametrize(
    "data",
    [
        b"\x80" * 11,
        varint(5 << 3 | 2) + varint(2**60),
        varint(5 << 3 | 3),
        field(5, varint(1 << 3 | 2) + varint(50) + b"short"),
        field(2, 1) + field(5, field(1, field(1, "a") + varint(2 << 3 | 5) + b"\0")),
    ],
)
def test_a_malformed_message_is_one_malformed_row(tmp_path, data):
    path = write_events(tmp_path / NAME, data, event(1, simple("loss", 2.0)))
    metrics, (finding,) = read(path)
    assert table(metrics) == {("train_loss", 1): 2.0}
    assert "1 malformed row" in finding.detail


def test_negative_steps_and_numbers_that_are_not_finite_are_counted(tmp_path):
    path = write_events(
        tmp_path / NAME,
        event(-1, simple("loss", 1.0)),
        event(1, simple("loss", float("nan"))),
        event(2, simple("a", 1.0)),
    )
    metrics, (finding,) = read(path)
    assert table(metrics) == {("a", 2): 1.0}
    assert "1 row without a step" in finding.detail
    assert "1 value not finite" in finding.detail


def test_noise_is_a_finding(tmp_path):
    noise = random.Random(0).randbytes(10_000)
    path = tmp_path / NAME
    for data in (noise, b"", b"\0" * 5_000, noise[:7]):
        path.write_bytes(data)
        metrics, findings = read(path)
        assert metrics == ()
        assert len(findings) == 1


def test_any_mutation_gives_rows_or_a_value_error(tmp_path):
    path = write_events(
        tmp_path / NAME, *(event(step, tensor("loss", field(1, 2) + field(6, 0.5))) for step in range(4))
    )
    whole, draw = path.read_bytes(), random.Random(1)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data)
        assert len(read(path)[0]) <= 4
    for _ in range(500):  # below the checksums
        body = bytearray(event(1, tensor("loss", field(1, 2) + field(6, 0.5)), simple("a", 1.0)))
        for _ in range(draw.randint(1, 4)):
            body[draw.randrange(len(body))] = draw.randrange(256)
        write_events(path, bytes(body))
        assert all(row is None or "step" in row for row in event_rows(path))


def test_a_resumed_training_replaces_what_the_first_one_logged_beyond(tmp_path):
    older = write_events(
        tmp_path / "events.out.tfevents.100.host", *(event(step, simple("loss", 1.0)) for step in (0, 10, 20, 30))
    )
    newer = write_events(
        tmp_path / "events.out.tfevents.200.host", *(event(step, simple("loss", 2.0)) for step in (20, 25))
    )
    metrics, (finding,) = read_metrics([newer, older], tmp_path)
    assert table(metrics) == {
        ("train_loss", 0): 1.0,
        ("train_loss", 10): 1.0,
        ("train_loss", 20): 2.0,
        ("train_loss", 25): 2.0,
    }
    assert "2 values of steps that a later session logs again" in finding.detail


def test_an_evaluation_afterwards_replaces_nothing(tmp_path):
    older = write_events(
        tmp_path / "events.out.tfevents.1.h", *(event(step, simple("val_loss", 1.0)) for step in (0, 5))
    )
    newer = write_events(tmp_path / "events.out.tfevents.2.h", event(0, simple("val_loss", 1.0)))
    metrics, findings = read_metrics([newer, older], tmp_path)
    assert (table(metrics), findings) == ({("val_loss", 0): 1.0, ("val_loss", 5): 1.0}, ())


def test_single_precision_is_no_contradiction(tmp_path):
    exact = tmp_path / "log.jsonl"
    exact.write_text('{"step": 1, "loss": 0.1}\n')
    events = write_events(tmp_path / NAME, event(1, simple("loss", 0.1)))
    metrics, findings = read_metrics([exact, events], tmp_path)
    assert (table(metrics), findings) == ({("train_loss", 1): 0.1}, ())


def test_a_message_of_a_hundred_thousand_fields_is_malformed(tmp_path):
    first, last = event(1, simple("loss", 2.0)), event(2, simple("loss", 1.0))
    metrics, (finding,) = read(write_events(tmp_path / NAME, first, b"\x08\x00" * 100_001, last))
    assert table(metrics) == {("train_loss", 1): 2.0, ("train_loss", 2): 1.0}
    assert "1 malformed row" in finding.detail
