"""What icp_vs_influence found, as Markdown."""

from __future__ import annotations

from typing import Any

from icp_scores import KINDS


def show(tasks: dict[str, Any]) -> None:
    """Agreement, bins, held-out losses and costs of some tasks."""
    first = next(iter(tasks.values()))
    k = first["comparison"]["k"]
    names = [task.split("/")[1] for task in tasks]
    agreements = {
        f"{kind}: {both.replace(' | ', ', ')}": [
            _correlation(result["agreement"][kind][both], k) for result in tasks.values()
        ]
        for kind in KINDS
        for both in first["agreement"][kind]
    }
    _table(f"agreement: Spearman (share of the top {k} in common)", names, agreements)
    against = "icp | inner product"
    bins = {
        f"{kind}: {label}": [
            _bin(result["agreement"][kind][against]["bins"][label]) for result in tasks.values()
        ]
        for kind in KINDS
        for label in first["agreement"][kind][against]["bins"]
    }
    _table("bins by icp against inner product: overlap (samples)", names, bins)
    losses = {
        arm: [_loss(result["comparison"]["arms"][arm]) for result in tasks.values()]
        for arm in first["comparison"]["arms"]
    }
    _table("held-out loss after retraining (95 % interval)", names, losses)
    shares = {
        method: [f"{result['share_of_task_in_top_k'][method]:.2f}" for result in tasks.values()]
        for method in first["share_of_task_in_top_k"]
    }
    _table(f"share of the task's rows in the top {k}", names, shares)
    for task, result in tasks.items():
        spent = ", ".join(f"{stage} {cost:.0f}" for stage, cost in result["cpu_seconds"].items())
        print(f"\n{task}: mean icp {result['mean_icp']}; CPU seconds: {spent}")


def _table(title: str, columns: list[str], rows: dict[str, list[str]]) -> None:
    print(f"\n| {title} | {' | '.join(columns)} |")
    print("|---|" + "--:|" * len(columns))
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


def _correlation(found: dict[str, Any], k: int) -> str:
    rho = "-" if found["spearman"] is None else f"{found['spearman']:.2f}"
    return f"{rho} ({found['overlap'][str(k)]:.2f})"


def _bin(found: dict[str, Any]) -> str:
    return f"{found['overlap']:.2f} ({found['n']})" if found["n"] else "- (0)"


def _loss(arm: dict[str, Any]) -> str:
    return f"{arm['mean']:.3f}" + (
        "" if not arm["ci95"] else " ({:.3f} to {:.3f})".format(*arm["ci95"])
    )
