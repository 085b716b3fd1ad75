"""Words that messages share."""

import pytest

from sedarchive.words import counted, did_you_mean, few_of


@pytest.mark.parametrize(("count", "said"), [(0, "0 files"), (1, "1 file"), (2, "2 files")])
def test_one_thing_is_not_said_as_many(count, said):
    assert counted(count, "file") == said


def test_of_many_names_the_first_are_shown_and_the_others_counted():
    assert few_of(["a", "b", "c"]) == "a, b, c"
    assert few_of(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert few_of([]) == ""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("val_los", " (did you mean 'val_loss'?)"),
        ("VAL-LOSS", " (did you mean 'val_loss'?)"),
        ("train_loss", ""),
        ("", ""),
        ("x" * 100_000, ""),
    ],
)
def test_a_mistaken_name_is_met_with_the_nearest_known_one(name, said):
    assert did_you_mean(name, ["val_loss", "lr"]) == said


def test_names_that_are_equally_near_are_both_said():
    assert did_you_mean("layer:1x", ["layer:10", "layer:11", "layer:2"]).count("layer:1") == 2


def test_very_many_names_cost_little_time():
    import time

    began = time.process_time()
    did_you_mean("layers.7.mlp.up_prj.weight", (f"layers.{at}.mlp.up_proj.weight" for at in range(10**6)))
    assert time.process_time() - began < 5
