"""The page of a suite's history: what its charts and tables have, and that it neither loads nor runs anything else."""

import json
from html.parser import HTMLParser

import pytest

from pytest_autotune.reporting.page import TICKS, chart, history_page
from pytest_autotune.reporting.trend import verifications
from tests.make_history import SLOWER, commit, series

HOSTILE = """x</script><script>alert("1")</script><img src=https://example.org/x onerror='alert(2)'>"""
NAMES = {"href", "src", "srcset", "data", "action", "formaction", "poster", "background", "xlink:href"}


class Page(HTMLParser):
    """The elements of a page with their attributes, the text outside of scripts, and the scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.texts, self._inside = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._inside.append(tag)

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data):
        kept = self.scripts if self._inside[-1:] == ["script"] else self.texts
        kept.append(data)

    @property
    def figures(self):
        """What Plotly is told to draw: data, layout and options of each chart."""
        found = []
        for script in self.scripts:
            _, called, rest = script.partition("Plotly.newPlot(")
            if called and rest.lstrip().startswith('"chart-'):
                rest = rest.lstrip().partition(",")[2].lstrip()
                told = []
                for _ in range(3):
                    value, end = json.JSONDecoder().raw_decode(rest)
                    told.append(value)
                    rest = rest[end:].lstrip(" ,\n")
                found.append(tuple(told))
        return found


SERIES = (
    series(*SLOWER),
    series(*SLOWER[2:], level="c16", since=2),
    series(0.4, 0.5, metric="ttft.p90", since=10, version=HOSTILE),
)


@pytest.fixture(scope="module")
def page():
    return Page(history_page(f"chat {HOSTILE}", SERIES))


def test_each_metric_is_a_chart_with_a_line_for_each_load_level(page):
    (throughput, layout, _), (ttft, ttft_layout, _) = page.figures
    assert [(line["name"], line["x"], line["y"]) for line in throughput] == [
        ("c8", list(range(12)), list(SLOWER)),
        ("c16", list(range(2, 12)), list(SLOWER[2:])),
    ]
    assert [(line["name"], line["x"], line["y"]) for line in ttft] == [("c8", [10, 11], [400.0, 500.0])]
    assert layout["yaxis"]["title"]["text"] == "output throughput (tok/s)"
    assert ttft_layout["yaxis"]["title"]["text"] == "ttft.p90 (ms)"
    assert layout["xaxis"]["ticktext"] == ttft_layout["xaxis"]["ticktext"] == [commit(day)[:10] for day in range(12)]
    assert (
        throughput[0]["hovertext"][3]
        == "commit 03c0ffee00<br>2026-01-05 03:04 UTC<br>c8: 200.00 tok/s<br>engine 0.11.0"
    )


def test_lines_are_told_apart_without_colours(page):
    looks = [(line["marker"]["symbol"], line["line"]["dash"]) for line in page.figures[0][0]]
    assert len(set(looks)) == len(looks)


def test_a_change_is_a_vertical_line_with_a_label(page):
    (_, layout, _), (_, unchanged, _) = page.figures
    assert [(line["x0"], line["x1"], line["yref"]) for line in layout["shapes"]] == [(7, 7, "paper")]
    (label,) = layout["annotations"]
    assert (label["x"], label["text"]) == (7, "<b>07c0ffee00</b><br>c8: -25 %<br>c16: -25 %")
    assert not unchanged.get("shapes")
    assert not unchanged.get("annotations")


def test_its_tables_are_those_of_the_terminal(page):
    text = "\n".join(page.texts)
    for wanted in ("███████▁▁▁▁▁", "152.00 tok/s", "-24 %", "+25 %"):
        assert wanted in text
    assert "-25 % output throughput at c8 since commit 07c0ffee00 of 2026-01-09, engine 0.11.0" in text


def test_nothing_is_loaded_from_elsewhere(page):
    assert {name for _, attributes in page.elements for name in attributes} & NAMES == set()
    assert {tag for tag, _ in page.elements}.isdisjoint({"link", "img", "iframe", "base", "object", "embed", "form"})
    (policy,) = [attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes]
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy


def test_no_button_sends_what_was_measured_to_somebody(page):
    for _, _, options in page.figures:
        (buttons,) = options["modeBarButtons"]
        assert set(buttons) <= {"zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"}
        assert options["displaylogo"] is False


def test_names_are_text(page):
    assert f"chat {HOSTILE}" in page.texts
    harmless = Page(history_page("chat", (*SERIES[:2], series(0.4, 0.5, metric="ttft.p90", since=10))))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in harmless.elements]
    assert "engine x&lt;/script&gt;&lt;script&gt;" in page.figures[1][0][0]["hovertext"][0]


def test_labels_that_would_cover_each_other_stand_one_above_the_other():
    near = (series(*SLOWER), series(*SLOWER[1:], level="c16"), series(*SLOWER, level="c32", since=8))
    figure = chart(near, verifications(near))
    assert [label["x"] for label in figure["layout"]["annotations"]] == [6, 7, 15]
    first, above, far = (label["ay"] for label in figure["layout"]["annotations"])
    assert above < first == far


@pytest.mark.parametrize(("runs", "named"), [(1, 1), (TICKS, TICKS), (TICKS + 1, 16), (500, 30)])
def test_of_many_verifications_some_are_named(runs, named):
    one = series(*[1.0] * runs)
    axis = chart([one], one.points)["layout"]["xaxis"]
    assert len(axis["tickvals"]) == len(axis["ticktext"]) == named
    assert axis["range"] == [-0.5, runs - 0.5]
