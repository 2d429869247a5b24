"""Plots as SVG: the same bytes, the page's colours, ids of their own."""

import re

from t5_pegasus.pages.svg import INK, LINE, draw, short


def plot(axes):
    axes.plot([1, 2, 3], [1, 4, 9], color=INK, label="标题")
    axes.legend()


def test_a_plot_is_drawn_alike_in_the_colours_of_the_page():
    one = draw("one", plot)
    assert one == draw("one", plot)
    assert INK not in one
    assert LINE not in one
    assert "var(--line)" in one
    assert "标题" in one
    ids = re.findall(r'\bid="([^"]*)"', one)
    assert ids
    assert all(each.startswith("one-") for each in ids)
    assert draw("two", plot) == one.replace('id="one-', 'id="two-').replace('"#one-', '"#two-').replace(
        "#one-", "#two-"
    )


def test_a_long_name_is_cut_and_a_dollar_begins_no_formula():
    assert short("x" * 28) == "x" * 28
    assert short("x" * 29) == "x" * 27 + "…"
    assert short("a$b$") == r"a\$b\$"
