"""The table that a run ends with: what came out, where it is, and what to do next."""

from __future__ import annotations

import csv
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from influcoder_lightning.errors import ConfigError
from influcoder_lightning.printable import printable
from influcoder_lightning.recipes.pages.page import other_method
from influcoder_lightning.recipes.run_folder import RANKING, SELECTED, locate
from influcoder_lightning.recipes.saved_config import CONFIG, load_config
from influcoder_lightning.report.press.units import duration
from influcoder_lightning.spreadsheet import from_cell
from influcoder_lightning.store import schema

Facts = dict[str, str]
_FILES = {  # in the order in which one looks at them
    "report.html": "report",
    "report.md": "report",
    RANKING: "ranking",
    SELECTED: "chosen rows",
    "confidence.csv": "confidence",
    "adapter": "trained LoRA",
    "influence": "store",
}
_NEXT = {
    "quickstart": "influcoder recipe=pipeline model.name=<model> data.pool=pool.jsonl "
    "data.query=query.jsonl data.eval=eval.jsonl select.k=500",
    "pipeline": "influcoder recipe=compare from={at} rank.method={other}",
    "valuate": "influcoder recipe=select from={at} select.k={k}",
    "score": "influcoder recipe=select from={at} select.k={k}",
    "icp": "influcoder recipe=select from={at} select.k={k}",
    "select": "influcoder recipe=retrain from={at}",
    "compare": "influcoder recipe=compare from={at} rank.method={other}",
    "loop": "influcoder recipe=retrain from={at}",
    "lds": "influcoder recipe=pipeline model.name=<model> data.pool=pool.jsonl "
    "data.query=query.jsonl data.eval=eval.jsonl select.k=500 rank.method={best}",
}


def print_closing(recipe: str, folder: Path, seconds: float) -> None:
    """Print the closing table of a finished run to stdout: drawn on a terminal, else plain.

    Args:
        recipe: its name.
        folder: of the run.
        seconds: that it took.
    """
    facts = {printable(name): printable(value) for name, value in outcome(recipe, folder).items()}
    files = files_of(folder)
    title = f"{recipe}: done in {duration(seconds)}"
    if sys.stdout.isatty():
        Console().print(_drawn(title, facts, files))
    else:
        print(_plain(title, facts | files))
    command = next_command(recipe, folder)
    if command is not None:
        print(f"next: {command}")


def outcome(recipe: str, folder: Path) -> Facts:
    """What came out, as the run's files say: name -> value."""
    facts: Facts = {}
    for name, read in _READERS.items():
        if (folder / name).is_file():
            facts |= read(folder / name)
    return facts


def files_of(folder: Path) -> Facts:
    """What lies in the run folder and is for people: what it is -> its path."""
    found: Facts = {}
    for name, what in _FILES.items():
        if (folder / name).exists():
            found.setdefault(what, shown_path(folder / name))
    return found or {"folder": shown_path(folder)}


def shown_path(path: Path) -> str:
    """Relative where it lies below the working directory."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def next_command(recipe: str, folder: Path) -> str | None:
    """A command that goes on from this run."""
    if recipe == "retrain":
        return _comparison_of_choice(folder)
    command = _NEXT.get(recipe)
    if command is None:
        return None
    best, k, other = "", 100, "tracin"
    if (folder / CONFIG).is_file():
        other = other_method(folder)
    if (folder / "lds.json").is_file():
        rows = _json(folder / "lds.json")["rows"]
        best = max(rows, key=lambda row: row["lds"])["name"]
    if (folder / RANKING).is_file():
        k = max(1, _n_lines(folder / RANKING) // 10)
    return command.format(at=shlex.quote(shown_path(folder)), best=best, k=k, other=other)


def _comparison_of_choice(folder: Path) -> str | None:
    """After a retraining: was the choice better than chance? None where nothing was ranked."""
    if not (folder / CONFIG).is_file():
        return None
    cfg = load_config(folder)
    if cfg["from"] is None:
        return None
    source = Path(cfg["from"])
    try:
        locate(source, RANKING)
    except ConfigError:  # a loop ranks in its rounds; a choice of one's own has no ranking
        return None
    earlier = load_config(source)
    command = f"influcoder recipe=compare from={shlex.quote(shown_path(source))}"
    if earlier.select.k is None:
        command += f" select.k={_json(folder / 'metrics.json')['n_samples']}"
    if earlier.data.eval is None:
        given = cfg.data.eval
        command += f" data.eval={shlex.quote(shown_path(Path(given))) if given else 'eval.jsonl'}"
    return command


def _drawn(title: str, facts: Facts, files: Facts) -> Table:
    table = Table(title=title, title_style="bold", title_justify="left", box=SIMPLE_HEAD)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    table.show_header = False
    for part in (facts, files):
        for name, value in part.items():
            table.add_row(name, Text(value))
        table.add_section()
    return table


def _plain(title: str, facts: Facts) -> str:
    width = max(map(len, facts))
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in facts.items())])


# ------------------------------------------------------------------------ what the files say


def _comparison(path: Path) -> Facts:
    found = _json(path)
    return _arms(found["arms"], f"nats per response token, {found['seeds']} seeds")


def _loop(path: Path) -> Facts:
    found = _json(path)
    best = found["rounds"][found["best_round"]]
    rounds = f"best is round {found['best_round']} of {len(found['rounds']) - 1}"
    facts = {"loop": f"{rounds}, {best['n_kept']:,} samples kept; {found['stopped']}"}
    return facts | _arms(found["arms"], f"nats per response token, {found['seeds']} seeds")


def _arms(arms: Mapping[str, Mapping[str, Any]], unit: str) -> Facts:
    facts = {"held-out loss": f"{unit}, 95 % interval"}
    for name, arm in arms.items():
        interval = "  [{:.4f}, {:.4f}]".format(*arm["ci95"]) if arm["ci95"] else ""
        facts[f"  {name}"] = f"{arm['mean']:.4f}{interval}"
    return facts


def _ranking(path: Path) -> Facts:
    """Read line by line: a ranking may have millions."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        best = next(lines, None)
        count = sum(1 for _ in lines) + (best is not None)
    if best is None:
        return {"ranked": "0 samples"}
    name = from_cell(best["sample_id"])
    return {"ranked": f"{count:,} samples; best is {name}, score {best['score']:.7}"}


def _selected(path: Path) -> Facts:
    return {"chosen": f"{_n_lines(path):,} samples"}


def _valuation(path: Path) -> Facts:
    from influcoder_lightning import InfluenceStore

    store = InfluenceStore(path)
    counts = store.attributes["counts"]
    reasons = ", ".join(f"{n:,} ({why})" for why, n in counts["kept_out"].items())
    facts = {"valued": f"{counts['written']:,} rows; kept out: {reasons or 'none'}"}
    drift = store.windows["drift"].dropna()
    if len(drift):
        facts["drift"] = (
            f"{drift.mean():.2f} mean, {drift.min():.2f} lowest of {len(drift):,} windows "
            "(1: the queries did not turn)"
        )
    return facts


def _metrics(path: Path) -> Facts:
    found = _json(path)
    before, after = found["eval_loss"]["before"], found["eval_loss"]["after"]
    facts = {"trained on": f"{found['n_samples']:,} samples, {found['steps']:,} steps"}
    if after is not None:
        facts["held-out loss"] = f"{before:.4f} before, {after:.4f} after (nats per response token)"
    return facts


def _planted(path: Path) -> Facts:
    found = _json(path)
    return {
        "planted rows": f"{found['skill_share_top_k']:.0%} of the top {found['k']} are of the "
        f"queries' skill (chance: {found['skill_share_chance']:.0%})"
    }


def _agreement(path: Path) -> Facts:
    found = _json(path)
    return {
        "samples": f"{found['n']:,}",
        **{name: _number(found[name]) for name in ("spearman", "kendall")},
        **{f"top {k} in common": f"{share:.0%}" for k, share in found["overlap"].items()},
    }


def _lds(path: Path) -> Facts:
    found = _json(path)
    facts = {"LDS": "rank correlation with retraining, 95 % interval"}
    for row in sorted(found["rows"], key=lambda row: -row["lds"]):
        facts[f"  {row['name']}"] = "{:.3f}  [{:.3f}, {:.3f}]".format(row["lds"], *row["ci95"])
    return facts | {"two seeds agree": f"{found['seed_agreement']:.3f}"}


def _fidelity(path: Path) -> Facts:
    rows = [row for row in _json(path)["rows"] if row["kind"] != "exact"]
    facts = {"agreement": "with exact gradients per query (Spearman), CPU ms per sample"}
    best = sorted(rows, key=lambda row: -row["per_query"])[:5]
    for row in best:
        name = f"  {row['name']}, {row['adapter']}"
        facts[name] = f"{row['per_query']:.3f}  {row['ms_per_sample']:.1f} ms"
    return facts


def _n_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes())


_READERS = {
    "comparison.json": _comparison,
    "loop.json": _loop,
    "lds.json": _lds,
    "fidelity.json": _fidelity,
    "agreement.json": _agreement,
    "metrics.json": _metrics,
    RANKING: _ranking,
    SELECTED: _selected,
    "planted.json": _planted,
    f"influence/{schema.FILE_NAME}": _valuation,
}
