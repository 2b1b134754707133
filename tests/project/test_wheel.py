"""The built wheel has everything: installed in an environment of its own, run from elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command, cwd):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder of executables of a new environment that holds the wheel and not this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
    built = run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT, cwd=folder)
    assert built.returncode == 0, built.stderr
    venv.create(folder / "venv", with_pip=False)
    site = next((folder / "venv").glob("lib/python*/site-packages"))
    wheel = next(folder.glob("*.whl"))
    done = run(*pip, "install", "--no-deps", "--target", site, wheel, cwd=folder)
    assert done.returncode == 0, done.stderr
    # The dependencies come from this environment; a path file does not read the path files there,
    # so an editable install of the checkout stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv" / "bin", site


def test_every_file_of_the_checkout_is_in_it(installed):
    _, site = installed
    package = [p for p in (ROOT / "influcoder_lightning").rglob("*") if p.is_file()]
    names = {p.relative_to(ROOT) for p in package if "__pycache__" not in p.parts}
    conf = [p.relative_to(ROOT) for p in (ROOT / "conf").rglob("*.yaml")]
    names |= {Path("influcoder_lightning") / name for name in conf}
    missing = [str(name) for name in sorted(names) if not (site / name).is_file()]
    assert not missing


def test_it_imports_quickly_and_from_the_wheel(installed, tmp_path):
    executables, site = installed
    code = (
        "import sys, influcoder_lightning as p; print(p.__file__); "
        "assert 'torch' not in sys.modules; print(p.InfluenceStore.__name__)"
    )
    result = run(executables / "python", "-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert str(site) in result.stdout


def test_the_command_runs_from_any_directory(installed, tmp_path):
    executables, _ = installed
    code = "import sys; from influcoder_lightning.cli import main; sys.exit(main())"
    shown = run(executables / "python", "-c", code, "--help", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "quickstart" in shown.stdout
    small = ("quickstart.n_pool=60", "quickstart.n_query=6", "quickstart.n_eval=6")
    small += ("quickstart.pretrain_steps=3", "train.steps=6", "retrain.steps=2", "select.k=10")
    done = run(
        executables / "python", "-c", code, *small, f"hydra.run.dir={tmp_path / 'r'}", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for name in ("config.yaml", "ranking.csv", "selected.jsonl", "comparison.json", "report.html"):
        assert (tmp_path / "r" / name).is_file(), name
