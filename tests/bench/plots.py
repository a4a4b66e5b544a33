"""Draws what bench.py measured: time per token over context with the floor, and the share of the floor by model.

    python3 tests/bench/plots.py RESULTS.jsonl FOLDER [--format svg]        needs matplotlib
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402


def of_kind(rows, *kinds):
    return [row for row in rows if row["kind"] in kinds and "ms" in row]


def over_context(rows, shape, floor, path):
    figure, axes = plt.subplots(figsize=(6, 4))
    mine = [row for row in of_kind(rows, "contexts", "peers") if row["shape"] == shape and row["context"] > 0]
    for who in dict.fromkeys(row["who"] for row in mine):
        points = sorted((row["context"], row["ms"]) for row in mine if row["who"] == who)
        axes.plot(*zip(*points), marker="o", label=who)
    if floor:
        points = sorted({(row["context"], floor * row["bytes_ratio"]) for row in mine})
        axes.plot(*zip(*points), "k--", label="floor: the weights and the cache streamed once")
    axes.set(xlabel="context, tokens", ylabel="ms a token", title=shape, yscale="log")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def by_model(rows, floors, path):
    best = {}
    for row in of_kind(rows, "contexts"):
        if row["who"] == "clusterfusion" and row["shape"] in floors:
            best.setdefault(row["shape"], row)
    if not best:
        return
    figure, axes = plt.subplots(figsize=(6, 0.5 * len(best) + 1.5))
    names = list(best)
    shares = [100 * floors[name] * best[name]["bytes_ratio"] / best[name]["ms"] for name in names]
    axes.barh(names, shares)
    axes.bar_label(axes.containers[0], fmt="%.0f %%")
    axes.set(xlabel=f"share of the memory's rate, %, at context {best[names[0]]['context']}", xlim=(0, 105))
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--format", default="svg", choices=("svg", "png"))
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.results.read_text().splitlines()]
    floors = {row["shape"]: row["floor_ms"] for row in rows if row["kind"] == "floor"}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for shape in dict.fromkeys(row["shape"] for row in of_kind(rows, "contexts")):
        over_context(rows, shape, floors.get(shape), arguments.folder / f"{shape}.{arguments.format}")
    by_model(rows, floors, arguments.folder / f"share.{arguments.format}")


if __name__ == "__main__":
    main()
