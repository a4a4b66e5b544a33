"""Tables, in Markdown, of what bench.py wrote, from the lines alone; files of several machines and days may be given together.

    python3 tests/bench/summary.py RESULTS.jsonl ...

A ratio is to the floor of the same run and shape where there is one, else to the latest floor on the same GPU. Of rows that were measured more than once
the last counts.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lines import read  # noqa: E402

OURS = "clusterfusion"
ASKED = {"pythia-2.8b": 1.14, "pythia-6.9b": 1.08, "llama-2-7b": 1.08, "llama-3.2-1b": 1.23, "pythia-410m": 1.85}  # x floor, on an H200
HOST_US, REPLAY_US = 15, 8  # what a host that takes each token, and a replay a step, may cost more
PROMPT, OF_COPY, OF_MEMORY = 1.5, 0.5, 1.05  # x cuBLASLt's products; of the copy's rate, at least; of weights + keys and values + 256 MB


class Results:
    def __init__(self, rows):
        self.rows = rows
        self.gpus = {row["run"]: row["gpu"] or row["cpu"] for row in rows if row["kind"] == "about"}
        self.floors = {}
        for row in rows:
            if row["kind"] == "floor":
                self.floors[row["run"], row["shape"]] = self.floors[self.gpus.get(row["run"]), row["shape"]] = row

    def of(self, kind, *keys, **wanted):
        """Rows of a kind; of those that agree in their shape, who and `keys` the last."""
        last = {}
        for row in self.rows:
            if row["kind"] == kind and all(row.get(key) == value for key, value in wanted.items()):
                last[self.gpus.get(row["run"]), row["shape"], row["who"], *(row.get(key) for key in keys)] = row
        return list(last.values())

    def floor_ms(self, row):
        """Of a step like the row's, or None."""
        floor = self.floors.get((row["run"], row["shape"])) or self.floors.get((self.gpus.get(row["run"]), row["shape"]))
        return floor and floor["floor_ms"] * row.get("bytes_ratio", 1)

    def over_floor(self, row):
        floor = self.floor_ms(row)
        return "" if not floor or "ms" not in row else f"{row['ms'] / floor:.3f}"

    def plain(self, row):
        """The plain case that a row is compared with: many steps in a call, at the same context, in the same run if it can be."""
        same = [r for r in self.rows if r["kind"] == "contexts" and r["who"] == OURS and r["shape"] == row["shape"] and r["context"] == row["context"]
                and r["way"].endswith("in a call") and self.gpus.get(r["run"]) == self.gpus.get(row["run"])]
        return next((r for r in reversed(same) if r["run"] == row["run"]), same[-1] if same else None)


def markdown(title, head, rows):
    line = lambda cells: "| " + " | ".join(str(cell) for cell in cells) + " |"  # noqa: E731
    return [f"\n## {title}\n", line(head), "|" + "---|" * len(head), *map(line, rows)] if rows else []


def asked_of(results, row, long):
    if row["way"].endswith("in a call"):
        asked = ASKED.get(row["shape"])
        return f"{asked:g} x floor" if asked and row["context"] in (128, long) else ""
    return {"a graph replay each": f"+{REPLAY_US} us", "the host takes each token": f"+{HOST_US} us",
            "the host takes each token, by replays": f"+{HOST_US} us"}.get(row["way"], "")


def contexts(results):
    rows = sorted(results.of("contexts", "context", "way"), key=lambda row: (row["shape"], row["context"], row["who"] != OURS))
    longest = {row["shape"]: row["context"] for row in rows}
    table = []
    for row in rows:
        plain = results.plain(row)
        over = f"{(row['ms'] - plain['ms']) * 1e3:+.0f}" if plain and plain is not row and row["who"] == OURS else ""
        table.append((row["shape"], row["context"], f"{row['who']}, {row['way']}", f"{row['ms']:.4f}", results.over_floor(row), over,
                      asked_of(results, row, longest[row["shape"]])))
    return markdown("A step at held contexts", ("shape", "context", "who", "ms", "x floor", "us over many in a call", "asked"), table)


def floor(results):
    return markdown("Floor", ("shape", "by", "GB", "ms", "TB/s", "ms with meetings"),
                    [(row["shape"], row["who"], f"{row['weight_bytes'] * 1e-9:.2f}", f"{row['floor_ms']:.4f}", f"{row['floor_tb_per_s']:.3f}",
                      row.get("meeting_ms", ""))
                     for row in results.of("floor")])


def tokens(results):
    rows, differs = results.of("tokens", "n"), {(row["shape"], row["who"]): row["first_difference"] for row in results.of("differs")}
    lengths = sorted({row["n"] for row in rows})
    table = []
    for shape, who in dict.fromkeys((row["shape"], row["who"]) for row in rows):
        mine = {row["n"]: row for row in rows if (row["shape"], row["who"]) == (shape, who)}
        last = mine[max(mine)]
        table.append((shape, who, *(f"{mine[n]['ms']:.3f}" if n in mine else "" for n in lengths), f"{last['tokens_per_s']:.0f}",
                      f"{last['set_up_s']:.3f}" if "set_up_s" in last else "",
                      {-1: "none"}.get(index := differs.get((shape, who), ""), index)))
    return markdown("One text from a prompt of five tokens: ms a token up to so many",
                    ("shape", "who", *lengths, "tokens/s", "set-up, s", "first other token"), table)


def modes(results):
    rows = [row for row in results.of("modes", "context", "mode", "graph", "asked_clusters") if "ms" in row]
    table = [(row["shape"], row["context"], row["mode"], "replay" if row["graph"] else "direct",
              row["clusters"] if row["asked_clusters"] else f"{row['clusters']}, the library's own",
              f"{row['ms']:.4f}", results.over_floor(row)) for row in rows]
    return markdown("Launches", ("shape", "context", "a launch per", "", "cluster", "ms", "x floor"), table)


def samplers(results):
    table = []
    for row in results.of("samplers", "context", "sampler"):
        greedy = next(r for r in results.rows if r["kind"] == "samplers" and r["sampler"] == "greedy" and (r["run"], r["shape"]) == (row["run"], row["shape"]))
        table.append((row["shape"], row["context"], row["sampler"], f"{row['ms']:.4f}", f"{(row['ms'] - greedy['ms']) * 1e3:+.0f}"))
    return markdown("Samplers", ("shape", "context", "sampler", "ms", "us over greedy"), table)


def rows_at_once(results):
    return markdown("Several rows at once", ("shape", "context", "rows", "ms", "x one step", "asked"),
                    [(row["shape"], row["context"], f"{row['n']} {row['what']}" if row["what"] != "a step" else "a step", f"{row['ms']:.4f}",
                      f"{row['over_one']:.3f}" if "over_one" in row else "", f"{row['allowed']:.3f}" if row["n"] == 8 else "") for row in results.of("rows", "context", "what", "n")])


def prompts(results):
    rows, table = results.of("prompts", "n"), []
    for row in rows:
        alone = next((r["ms"] for r in rows if (r["shape"], r["n"], r["who"], r["run"]) == (row["shape"], row["n"], "matrix products, cublaslt",
                                                                                            row["run"])), None)
        ratio = f"{row['ms'] / alone:.3f}" if alone else ""
        table.append((row["shape"], row["n"], row["who"], f"{row['ms']:.3f}", ratio, f"{PROMPT}; no slower than transformers" if row["who"] == OURS else ""))
    return markdown("Time to the first token", ("shape", "prompt", "who", "ms", "x cuBLASLt's products", "asked"), sorted(table, key=lambda row: row[:2]))


def loading(results):
    return markdown("Loading", ("shape", "file, GB", "s", "GB/s", f"of the copy's rate (asked: {OF_COPY})", "memory, GB",
                                f"of weights + KV + 256 MB (asked: {OF_MEMORY})"),
                    [(row["shape"], f"{row['file_gb']:.2f}", f"{row['seconds']:.2f}", f"{row['gb_per_s']:.2f}", f"{row['of_copy']:.2f}",
                      f"{row['peak_gb']:.2f}" + (f", of the device {row['taken_gb']:.2f}" if "taken_gb" in row else ""),
                      f"{row['peak_of_allowed']:.3f}" + (f", {row['taken_of_allowed']:.3f}" if "taken_of_allowed" in row else "")) for row in results.of("loading")])


def fused(results):
    return markdown("Parts of the library inside transformers", ("shape", "context", "fused", "", "ms", "x floor", "logits off by"),
                    [(row["shape"], row["context"], row["fused"], "replay" if row["graph"] else "as PyTorch runs it", f"{row['ms']:.4f}",
                      results.over_floor(row), f"{row['off_by']:.1e}")
                     for row in results.of("fused", "context", "fused", "graph")])


def phases(results):
    rows = results.of("phases", "context", "phase")
    sums = {}
    for row in rows:
        key = row["run"], row["shape"], row["who"], row["context"]
        sums[key] = sums.get(key, 0) + row["ms"]
    return markdown("By phase, a launch each", ("shape", "context", "phase", "launches", "ms", "share"),
                    [(row["shape"], row["context"], row["phase"], row.get("launches", ""), f"{row['ms']:.4f}",
                      f"{row['ms'] / sums[row['run'], row['shape'], row['who'], row['context']]:.1%}")
                     for row in rows])


def quality(results):
    columns = ("tokens", "perplexity", "same_likeliest", "overlap_5", "overlap_10", "logits_mae", "kl")
    number = lambda value: f"{value:.6g}" if isinstance(value, float) else value  # noqa: E731
    table = [(row["shape"], row["text"], row["who"], *(number(row.get(column, "")) for column in columns),
              f"{row['repeated']} of {row['of_runs']}" if "repeated" in row else "")
             for row in results.of("quality", "text") if "text" in row]
    return markdown("Agreement with transformers in fp32, a token a step", ("shape", "text", "who", "tokens", "perplexity", "same likeliest",
                                                                            "of 5 likeliest", "of 10", "MAE of logits",
                                                                          "KL", "runs alike"), table)


def failures(results):
    done = {(row["of"], row["shape"]) for row in results.rows if row["kind"] == "done"}
    return markdown("Not measured", ("shape", "kind", "why"), dict.fromkeys(
        (row["shape"], row["of"], row["sentence"].replace("|", "\\|")) for row in results.rows
        if row["kind"] in ("error", "unavailable") and (row["of"], row["shape"]) not in done))


def table(rows):
    results = Results(rows)
    ran = [f"{row['date']}, {row['gpu'] or row['cpu']}, commit {row['commit'] or '?'}, torch {row['torch'] or '-'}, transformers {row['transformers'] or '-'}: `{row['command']}`"
           for row in rows if row["kind"] == "about"]
    parts = [part(results) for part in (floor, contexts, rows_at_once, tokens, prompts, loading, samplers, modes, fused, phases, quality, failures)]
    return "\n".join([*dict.fromkeys(ran), *(line for part in parts for line in part)])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print(table(read(*sys.argv[1:])))
