"""Several texts in Prometheus' form become one that is valid again, whatever is in them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from ichat.front.exposition import Exposition


def merged(*texts: tuple[str, str]) -> str:
    one = Exposition()
    for text, labels in texts:
        one.add(text.encode(), labels.encode())
    while not one.step():
        pass
    return b"".join(one.parts()).decode()


A, B = 'i="qwen/0"', 'i="qwen/1"'


def test_families_of_one_name_stand_together_and_are_explained_once() -> None:
    text = "# HELP x_total Words.\n# TYPE x_total counter\nx_total 1\n# TYPE y gauge\ny 2\n"
    assert merged((text, A), (text, B)) == (
        '# HELP x_total Words.\n# TYPE x_total counter\nx_total{i="qwen/0"} 1\nx_total{i="qwen/1"} 1\n'
        '# TYPE y gauge\ny{i="qwen/0"} 2\ny{i="qwen/1"} 2\n'
    )


def test_buckets_sum_and_count_belong_to_their_histogram() -> None:
    text = '# TYPE h histogram\nh_bucket{le="1"} 1\nh_bucket{le="+Inf"} 2\nh_sum 3.5\nh_count 2\nh_counted 9\n'
    assert merged((text, A)).splitlines() == [
        "# TYPE h histogram",
        'h_bucket{i="qwen/0",le="1"} 1',
        'h_bucket{i="qwen/0",le="+Inf"} 2',
        'h_sum{i="qwen/0"} 3.5',
        'h_count{i="qwen/0"} 2',
        'h_counted{i="qwen/0"} 9',
    ]
    again = "h_sum 1\nother 2\nh_count 1\n"
    assert merged((text, A), (again, B)).splitlines()[5:8] == [
        'h_sum{i="qwen/1"} 1',
        'h_count{i="qwen/1"} 1',
        'h_counted{i="qwen/0"} 9',
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("x 1", "x{L} 1"),
        ("x{} 1", "x{L} 1"),
        ('x{a="b",} 1', 'x{L,a="b",} 1'),
        ('x {a="b"}  1.5e-3', 'x{L,a="b"} 1.5e-3'),
        (r'x{a="\"} \\"} NaN', r'x{L,a="\"} \\"} NaN'),
        ('x{a="} 5 # {",b="c d"} +Inf', 'x{L,a="} 5 # {",b="c d"} +Inf'),
        ("x 1 1700000000000", "x{L} 1 1700000000000"),
        ('x_bucket{le="1"} 5 # {trace_id="a"} 0.5 17.0', 'x_bucket{L,le="1"} 5'),
        ("  x 1\r", "x{L} 1"),
        ("ns:x:rate5m 0", "ns:x:rate5m{L} 0"),
    ],
)
def test_a_sample_keeps_all_but_what_this_form_has_no_word_for(line: str, expected: str) -> None:
    assert merged((line + "\n", A)) == expected.replace("L", A) + "\n"


@pytest.mark.parametrize("line", ["x", "x{", 'x{a="b} 1', "1x 2", "x y", "<html>", 'x{a="b"', "# EOF", "#", "\0"])
def test_what_is_no_sample_is_left_out_and_the_rest_stays(line: str) -> None:
    assert merged((f"y 1\n{line}\nz 2", A)) == f"y{{{A}}} 1\nz{{{A}}} 2\n"


def test_a_line_that_never_ends_takes_no_time() -> None:
    assert merged(("x{" + "a" * 1_000_000 + "\n" + 'x{a="' + "\\\\" * 500_000 + "\ny 1\n", A)) == f"y{{{A}}} 1\n"


def test_without_labels_a_text_stays_as_it_is() -> None:
    text = '# HELP x Words.\n# TYPE x gauge\nx{a="b"} 1\ny 2\n'
    assert merged((text, "")) == text


NAMES = st.sampled_from(["a", "b_total", "c", "d:e"])
VALUES = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\r\x1c\x1d\x1e\x85\u2028\u2029\x0b\x0c"), max_size=8
)


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(NAMES, VALUES, st.integers(0, 9)), max_size=200), max_size=4))
def test_a_reader_of_the_format_finds_every_sample_with_its_writer(texts: list[list[tuple[str, str, int]]]) -> None:
    escape = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
    written = []
    expected = []
    for number, samples in enumerate(texts):
        lines = ["# TYPE b_total counter", "# TYPE c gauge"]
        for name, value, count in samples:
            lines.append(f'{name}{{l="{value.translate(escape)}"}} {count}')
            expected.append((name, value, str(number), count))
        written.append(("\n".join(lines), f'w="{number}"'))
    text = merged(*written)
    families = list(text_string_to_metric_families(text))
    found = [(s.name, s.labels["l"], s.labels["w"], int(s.value)) for family in families for s in family.samples]
    assert sorted(found) == sorted(expected)
    groups = [name for name, _ in itertools.groupby(family.name for family in families)]
    assert len(set(groups)) == len(groups)
