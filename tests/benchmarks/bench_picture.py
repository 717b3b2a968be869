"""The benchmark's rows as a table in the terminal and as bars in a picture."""

from pathlib import Path
from typing import Any

from benchmarks.bench_goals import RAW, RAW_OBJECTS

LIMITS = {RAW: "--", RAW_OBJECTS: ":"}
"""What is drawn as a line, and how."""


def table(rows: list[dict[str, Any]], case: str) -> str:
    """Return the rows of one case as text."""
    lines = [f"{case:40} {'save MB/s':>10} {'load MB/s':>10} {'slowest':>11} {'CPU s/GiB':>12} {'peak MiB':>9}"]
    for row in rows:
        if row["case"] == case:
            cpu = f"{row['save_cpu_s_per_GiB']:.2f}/{row['load_cpu_s_per_GiB']:.2f}"
            slowest = f"{row['save_MBps_runs'][0]}/{row['load_MBps_runs'][0]}"
            moved = f"{row['save_MBps']:>10} {row['load_MBps']:>10} {slowest:>11}"
            lines.append(f"  {row['system']:38} {moved} {cpu:>12} {row['peak_extra_MiB']:>9}")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw one pair of bar charts per case; the lines are what the wire gives to obstore alone."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(row["case"] for row in rows))
    figure, grid = plt.subplots(len(names), 2, figsize=(11, 1.9 * len(names) + 0.6), squeeze=False)
    for line, name in zip(grid, names, strict=True):
        of_case = [row for row in rows if row["case"] == name]
        for axes, what in zip(line, ("save", "load"), strict=True):
            bars = [row for row in of_case if row["system"] not in LIMITS][::-1]
            figures = [row[f"{what}_MBps"] for row in bars]
            colours = ["#1f6feb" if row["system"] == "dcp-operator" else "#b7bdc6" for row in bars]
            drawn = axes.barh([row["system"] for row in bars], figures, color=colours)
            axes.bar_label(drawn, padding=3, fontsize=8)
            for row in of_case:
                if (limit := row["system"]) in LIMITS:
                    style = LIMITS[limit]
                    axes.axvline(row[f"{what}_MBps"], color="#d1242f", linestyle=style, linewidth=1, label=limit)
                    axes.legend(loc="lower right", fontsize=7, frameon=False)
            axes.set_title(f"{what}, MB/s: {name}", fontsize=9, loc="left")
            axes.tick_params(labelsize=8)
            axes.margins(x=0.12)
            axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
