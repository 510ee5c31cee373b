"""Sizes and durations."""

import pytest

from hpo.units import parse_duration, parse_size, show_duration, show_size, show_value


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2 << 30),
        ("512MiB", 512 << 20),
        ("1.5G", 3 << 29),
        (" 3 kb ", 3 << 10),
        ("1T", 1 << 40),
        ("100", 100),
        ("100B", 100),
    ],
)
def test_sizes_are_read_in_powers_of_1024(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "lots", "-1GB", "0", "2XB", "1.2.3GB", ".", "2 GB more"])
def test_a_wrong_size_says_what_it_is_and_how_to_write_one(text):
    with pytest.raises(ValueError, match="not a size; write 512MB or 2GB") as caught:
        parse_size(text)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1.5h", 5400), ("2d", 172800), ("45", 45), (" 8 H ", 28800)],
)
def test_durations_are_read_in_seconds(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1h", "0s", "1.2.3h", ".", "1h 30m"])
def test_a_wrong_duration_says_what_it_is_and_how_to_write_one(text):
    with pytest.raises(ValueError, match="not a duration; write 90s, 30m or 8h") as caught:
        parse_duration(text)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1 << 10, "1.0 KiB"),
        (3 << 19, "1.5 MiB"),
        (5 << 30, "5.0 GiB"),
    ],
)
def test_sizes_are_shown_in_the_unit_that_suits(size, shown):
    assert show_size(size) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.25, "0.2s"),
        (12.4, "12s"),
        (59.6, "1m 00s"),
        (200, "3m 20s"),
        (3599.7, "1h 00m"),
        (7500, "2h 05m"),
        (90000, "25h 00m"),
    ],
)
def test_durations_are_shown_in_two_units(seconds, shown):
    assert show_duration(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(1.23456e-4, "0.000123"), (8, "8"), ("cosine", "cosine"), (0.1, "0.1")]
)
def test_hyperparameters_are_shown_short(value, shown):
    assert show_value(value) == shown
