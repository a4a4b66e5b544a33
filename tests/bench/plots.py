"""Draws what bench.py measured, from the lines alone, of one or more files. Needs matplotlib; where the GPU is it may be missing, so this runs anywhere.

    python3 tests/bench/plots.py RESULTS.jsonl [...] --folder FOLDER [--format svg]

  SHAPE-context   ms a token over the context, with the floor drawn in
  share           share of the floor's rate that a step reaches, by model, at the shortest and the longest context
  SHAPE-ablation  launch modes, direct and in graphs, by size of cluster; and parts of the library inside transformers
  SHAPE-phases    where a step's time goes, a launch each
"""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lines import read  # noqa: E402
from summary import OURS, Results  # noqa: E402


class Plots:
    def __init__(self, results, folder, form):
        self.results, self.folder, self.form = results, folder, form
        self.gpu = ", ".join(dict.fromkeys(gpu.split(",")[0] for gpu in results.gpus.values()))
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, figure, name):
        figure.tight_layout()
        path = self.folder / f"{name}.{self.form}"
        figure.savefig(path, dpi=150, metadata={"Date": None} if self.form == "svg" else None)
        plt.close(figure)
        print(path)

    def over_context(self, shape):
        rows = [row for row in self.results.of("contexts", "context", "way", shape=shape) if row["way"].endswith(("in a call", "one by one"))]
        figure, axes = plt.subplots(figsize=(7, 4.5))
        for who, way in dict.fromkeys((row["who"], row["way"]) for row in rows):
            points = sorted((row["context"], row["ms"]) for row in rows if (row["who"], row["way"]) == (who, way))
            axes.plot(*zip(*points), marker="o", label=who)
        floor = sorted({row["context"]: self.results.floor_ms(row) for row in rows if self.results.floor_ms(row)}.items())
        if floor:
            axes.plot(*zip(*floor), "k--", label="floor: weights and cache streamed once")
        axes.set(xlabel="context, tokens", ylabel="ms a token", title=f"{shape}, {self.gpu}", yscale="log")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
        self.save(figure, f"{shape}-context")

    def share(self):
        rows = [row for row in self.results.of("contexts", "context", "way", who=OURS) if row["way"].endswith("in a call") and self.results.floor_ms(row)]
        shapes = list(dict.fromkeys(row["shape"] for row in rows))
        if not shapes:
            return
        figure, axes = plt.subplots(figsize=(7, 0.7 * len(shapes) + 1.5))
        for offset, pick in ((-0.2, min), (0.2, max)):
            mine = [pick((row for row in rows if row["shape"] == shape), key=lambda row: row["context"]) for shape in shapes]
            bars = axes.barh([i + offset for i in range(len(shapes))], [100 * self.results.floor_ms(row) / row["ms"] for row in mine], height=0.38,
                             label="context " + ", ".join(dict.fromkeys(str(row["context"]) for row in mine)))
            axes.bar_label(bars, fmt="%.0f %%", padding=2, fontsize=8)
        axes.set(yticks=range(len(shapes)), yticklabels=shapes, xlim=(0, 115), xlabel=f"share of the floor's rate, %  ({self.gpu})")
        axes.invert_yaxis()
        axes.legend(fontsize=8)
        self.save(figure, "share")

    def ablation(self, shape):
        modes = [row for row in self.results.of("modes", "context", "mode", "graph", "asked_clusters", shape=shape) if "ms" in row]
        fused = self.results.of("fused", "context", "fused", "graph", shape=shape)
        modes, fused = ([row for row in rows if row["context"] == min(r["context"] for r in rows)] for rows in (modes, fused))
        if not modes and not fused:
            return
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5))
        for mode, graph in dict.fromkeys((row["mode"], row["graph"]) for row in modes):
            mine = sorted((row["clusters"], row["ms"]) for row in modes if (row["mode"], row["graph"]) == (mode, graph) and row["asked_clusters"])
            mine = mine or [(row["clusters"], row["ms"]) for row in modes if (row["mode"], row["graph"]) == (mode, graph)]
            left.plot(*zip(*mine), marker="o", linestyle="--" if graph else "-", label=f"a launch per {mode}{', graph replays' if graph else ''}")
        left.set(xscale="log", xlabel="CTAs of a cluster", ylabel="ms a token", ylim=(0, 1.1 * max((row["ms"] for row in modes), default=1)), title="launches")
        left.set_xticks(sizes := sorted({row["clusters"] for row in modes}), [str(size) for size in sizes])
        left.minorticks_off()
        if modes:
            left.legend(fontsize=8)
        names = list(dict.fromkeys(row["fused"] for row in fused))
        for offset, graph, label in ((-0.2, 0, "as PyTorch runs it"), (0.2, 1, "graph replays")):
            mine = [(names.index(row["fused"]) + offset, row["ms"]) for row in fused if row["graph"] == graph]
            if mine:
                right.bar_label(right.bar(*zip(*mine), width=0.38, label=label), fmt="%.2f", fontsize=7)
        right.set(xticks=range(len(names)), ylabel="ms a token", title="fused inside transformers")
        right.set_xticklabels(names, rotation=20, fontsize=8)
        if fused:
            right.legend(fontsize=8)
        figure.suptitle(f"{shape}, {self.gpu}, context {(modes or fused)[0]['context']}")
        self.save(figure, f"{shape}-ablation")

    def phases(self, shape):
        rows = self.results.of("phases", "context", "phase", shape=shape)
        if not rows:
            return
        figure, axes = plt.subplots(figsize=(7, 1 + 0.5 * len({(row["who"], row["context"]) for row in rows}) + 1.5))
        names, left = list(dict.fromkeys((row["who"], row["context"]) for row in rows)), {}
        for number, phase in enumerate(dict.fromkeys(row["phase"] for row in rows)):
            for row in (row for row in rows if row["phase"] == phase):
                at = names.index((row["who"], row["context"]))
                axes.barh(at, row["ms"], left=left.get(at, 0), color=f"C{number % 10}",
                          label=phase if not axes.get_legend_handles_labels()[1].count(phase) else None)
                left[at] = left.get(at, 0) + row["ms"]
        labels = [f"context {context}" if who == OURS else f"{who}, context {context}" for who, context in names]
        axes.set(yticks=range(len(names)), yticklabels=labels, xlabel="ms", title=f"{shape}, {self.gpu}: phases of a step")
        axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.35))
        self.save(figure, f"{shape}-phases")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--format", default="svg", choices=("svg", "png"))
    arguments = parser.parse_args()
    results = Results(read(*arguments.results))
    plots = Plots(results, arguments.folder, arguments.format)
    for shape in dict.fromkeys(row["shape"] for row in results.of("contexts", "context")):
        plots.over_context(shape)
    plots.share()
    for shape in dict.fromkeys(row["shape"] for row in results.rows if row["kind"] in ("modes", "fused", "phases")):
        plots.ablation(shape)
        plots.phases(shape)


if __name__ == "__main__":
    main()
