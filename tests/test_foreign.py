"""Models of other packages: a right spec, or a clear error. What each gave is in `reports/bench`."""

import pandas as pd
import pytest
from conftest import ROOT
from foreign import SOURCES, is_installed
from foreign.measure import NOTHING, PARTLY, REFUSED, RIGHT, measure

TABLE = ROOT / "reports/bench/foreign.csv"
NONE = pd.DataFrame(columns=["source", "name"])
KNOWN = pd.read_csv(TABLE, keep_default_na=False) if TABLE.exists() else NONE


def test_the_table_has_many_models_and_nothing_wrong():
    assert len(KNOWN) > 200 and set(KNOWN["outcome"]) <= {RIGHT, PARTLY, NOTHING, REFUSED}
    assert (KNOWN["outcome"] == RIGHT).mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    "known",
    [pytest.param(row, id=f"{row['source']}-{row['name']}") for row in KNOWN.to_dict("records")],
)
def test_foreign(known):
    if not is_installed(known["source"]): pytest.skip(f"{SOURCES[known['source']]} is not installed")
    row = measure(known["source"], known["name"])
    assert row["outcome"] in (RIGHT, PARTLY, NOTHING, REFUSED), row
    assert row["coverage"] >= known["coverage"], row["pinned"]
