"""Charts as SVG."""

from __future__ import annotations

import importlib.util
import sys
from xml.etree import ElementTree

from docmill.worker.web import charts

SVG = "{http://www.w3.org/2000/svg}"


def test_a_chart_has_a_bar_for_each_range_and_neither_script_nor_style() -> None:
    root = ElementTree.fromstring(charts.bars([("1", 3), ("2–3", 0), ("4–7", 5)], "Results by tokens"))
    assert root.get("aria-label") == "Results by tokens"
    tags = {one.tag for one in root.iter()}
    assert tags.isdisjoint({f"{SVG}script", f"{SVG}style"})
    assert len([one for one in root.iter(f"{SVG}rect") if "rect" in (one.get("class") or "").split()]) == 3
    assert "4–7" in [one.text for one in root.iter(f"{SVG}text")]


def test_an_import_that_fails_after_a_chart_warns_of_nothing() -> None:
    charts.line([("10:00", 1.0), ("10:01", 2.0)], "Tokens per second")
    assert not [finder for finder in sys.meta_path if not hasattr(finder, "find_spec")]
    assert importlib.util.find_spec("no_such_module_at_all") is None
