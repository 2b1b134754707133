import numpy as np
import pytest
from matplotlib.image import imread

from influcoder_lightning import Ranking
from influcoder_lightning.influence.agreement import agreement, pair
from influcoder_lightning.report.findings.two_rankings import _overlaps, agreement_figure
from influcoder_lightning.report.press.style import save_figure


@pytest.mark.parametrize("n", [3, 50, 3500])
def test_the_curve_is_the_overlap_of_every_k(tmp_path, n):
    rng = np.random.default_rng(n)
    a = rng.normal(size=n)
    both = pair(Ranking(range(n), a), Ranking(range(n), np.round(a + rng.normal(size=n))))
    curve = _overlaps(both)
    ks = [1, 2, 3, n // 2 + 1, n]
    found = agreement(both, ks)["overlap"]
    assert [curve[k - 1] for k in ks] == pytest.approx([found[str(k)] for k in ks])
    save_figure(agreement_figure(both, "one_run/$x$", "another\nrun"), tmp_path / "a.png")
    assert imread(tmp_path / "a.png").std() > 0
