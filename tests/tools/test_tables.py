"""The tables of the pages that `make coverage` and `make fusion-versions` write."""

import pytest

from tools.coverage import table as coverage_table
from tools.coverage.__main__ import failed
from tools.fusion_versions import table as versions_table
from tools.fusion_versions.__main__ import baseline
from tools.fusion_versions.compare import differences, is_worse
from tools.pages import replaced


def result(**changes):
    return {
        "model": "Net",
        "sites": 7,
        "neighbours": 4,
        "alone": 3,
        "left": 0,
        "places": {},
        "parity": 2e-7,
        "evaluation": True,
        **changes,
    }


def test_text_between_markers_is_replaced():
    page = "# Title\n<!-- a: begin -->\nold\n<!-- a: end -->\nlast\n"
    new = replaced(page, "a", "new")
    assert new == "# Title\n<!-- a: begin -->\n\nnew\n\n<!-- a: end -->\nlast\n"
    assert replaced(new, "a", "new") == new
    with pytest.raises(ValueError, match="<!-- b: begin -->"):
        replaced(page, "b", "new")


def test_coverage_table():
    left = {"models/net.py:12 F.dropout": 2}
    results = {
        "net": result(),
        "other": result(alone=1, left=2, places=left, parity=None),
        "plain": result(sites=0, neighbours=0, alone=0),
        "recurrent": result(left=2, places={"models/lstm.py:7 torch.lstm": 2}),
        "absent": {"error": "the text for readers", "not_run": True},
        "library": {"error": "ImportError: Net requires the scipy library but", "not_run": True},
        "part": {"error": coverage_table.PART, "not_run": True},
        "timm/tiny": result(evaluation=False),
    }
    text = coverage_table.markdown(results, {"transformers": "5.0.0"})
    assert text.startswith("transformers 5.0.0.")
    assert "| net | Net | 7 | 4 | 3 | 0 | 2e-07 | equal |" in text
    assert "| other | Net | 7 | 4 | 1 | 2 | random | equal |" in text
    assert "| tiny | Net | 7 | 4 | 3 | 0 | 2e-07 | **differs** |" in text
    assert "Without a dropout site: plain." in text
    assert "- `models/net.py:12 F.dropout`: other (2): reached in a way that" in text
    assert "- `models/lstm.py:7 torch.lstm`: recurrent (2): torch computes all layers" in text
    assert "- absent: the text for readers" in text
    assert "- library: needs the library scipy, which is not installed" in text
    assert "Parts of other families, without a model of their own: part." in text
    assert "part" not in text.partition("### Not run")[2].partition("## timm")[0]
    assert "4 of 6 families ran, 1 of them without a dropout site; 2 could not be run; 1 " in text
    assert "Of 21 sites" in text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("not ready after 120.0 s", "takes more than 120 seconds"),
        (
            "NetModel: 90 million parameters",
            "is not made small by the rules: 90 million parameters",
        ),
        ("import: No module named 'torchaudio'", "needs the library torchaudio, which"),
        ("Net: inputs x+y: ValueError: why (a/b.py:3)", "no inputs were found with which it runs"),
        ("Net: KeyError: 'full'", "no small configuration was found: KeyError: 'full'"),
    ],
)
def test_reasons_in_plain_words(error, text):
    page = coverage_table.markdown({"net": {"error": error, "not_run": True}}, {})
    assert f"- net: {text}" in page
    assert ".py" not in page


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"parity": None, "evaluation": None}, None),
        ({"parity": 0.1}, "parity"),
        ({"parity": float("nan")}, "parity"),
        ({"evaluation": False}, "evaluation"),
        ({"left": 1}, "more calls left with torch"),
    ],
)
def test_failures(changes, reason):
    assert failed(result(**changes), result()) == reason


def test_failures_without_counts():
    assert failed({"error": "IndexError"}) == "crash"
    assert failed({"error": "no inputs", "not_run": True}) is None
    assert failed({"error": "no inputs", "not_run": True}, result()) == "no longer runs"


def probed(**changes):
    fused = {"Output: bias, dropout, residual, norm": 4, "Attention: dropout": 2}
    return result(fused=fused, skipped={}, **changes)


def less():
    fused = {"Output: bias, dropout, residual, norm": 4}
    skipped = {"Attention: forward has no known fingerprint": 2}
    return {**probed(alone=1, left=2), "fused": fused, "skipped": skipped}


def test_differences_of_versions():
    lines = list(differences({"bert": probed(), "gone": probed()}, {"bert": less(), "x": probed()}))
    assert lines == [
        "bert: 2 are no longer fused: Attention: dropout",
        "bert: 2 are skipped now: Attention: forward has no known fingerprint",
        "bert: calls, alone: 3 before, 1 now",
        "bert: calls, left: 0 before, 2 now",
        "gone: is not measured",
        "x: is new",
    ]
    assert not list(differences({"bert": probed()}, {"bert": probed()}))
    failure = {"error": "ImportError"}
    assert list(differences({"bert": probed()}, {"bert": failure})) == ["bert: ImportError"]
    assert list(differences({"bert": failure}, {"bert": probed()})) == ["bert: works"]


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        (probed(), probed(), False),
        (probed(), less(), True),
        (less(), probed(), False),
        (probed(), probed(neighbours=3, alone=4), True),
        (probed(), probed(parity=0.5), True),
        (probed(), {"error": "ImportError"}, True),
        ({"error": "ImportError"}, {"error": "ImportError"}, False),
        ({"error": "ImportError"}, probed(evaluation=False), True),
    ],
)
def test_whether_a_version_is_worse(before, after, worse):
    assert is_worse({"bert": before}, {"bert": after}) is worse


def test_the_version_to_compare_with():
    stored = {"timm==1.0.9": {}, "timm==1.0.31": {}, "transformers==5.24.0": {}}
    assert baseline("timm==1.0.9", stored) == "timm==1.0.9"
    assert baseline("timm==1.0.40", stored) == "timm==1.0.31"
    assert baseline("other==1", stored) is None


def test_versions_table():
    stored = {
        "transformers==4.57.6": {"bert": less(), "bart": {"error": "ImportError: no bart"}},
        "transformers==5.24.0": {"bert": probed(), "bart": probed(parity=1.0)},
        "timm==1.0.31": {"vit": probed()},
    }
    text = versions_table.markdown(stored, "2.13.0")
    assert text.startswith("Measured with torch 2.13.0.")
    assert "| | 4.57.6 | 5.24.0 |" in text
    assert "| bert | 4 + 1 + 2 | 4 + 3 + 0 |" in text
    assert "| bart | not run | **wrong** 4 + 3 + 0 |" in text
    assert "- 4.57.6, not fused: dropout (Attention)" in text
    assert "- 4.57.6, skipped: forward has no known fingerprint (Attention)" in text
    assert "- 4.57.6, ImportError: no bart (bart)" in text
    assert "| vit | 4 + 3 + 0 |" in text
