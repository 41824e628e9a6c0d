"""What was measured, as tables."""

from statistics import median
from typing import Any

from benchmarks.measured import table
from benchmarks.speed.sizes import MATMUL, SIZES, jobs, matmul_flops

Rows = list[dict[str, Any]]


def work(row: dict[str, Any], counts: dict[str, Any]) -> float:
    """Operations of one timing, by the rules of torch's counter."""
    size = SIZES[row["size"]]
    if row["job"] == "train":
        return size.batch * size.train_steps * counts["ours"]["train"]
    asked = counts["passes"][row["job"]][row["who"]]
    return size.images * sum(asked[name] * counts["ours"][name] for name in asked)


def share(row: dict[str, Any], counts: dict[str, Any]) -> float:
    """Of the machine's rate of multiplying matrices, each round by its own."""
    rates = [work(row, counts) / each / matmul_flops(SIZES[row["size"]]) for each in row["seconds"]]
    return median(rate * product for rate, product in zip(rates, row["matmul"], strict=True))


def gain(row: dict[str, Any], first: dict[str, Any]) -> float:
    """How many times longer than the first one: the median of the rounds' ratios."""
    return median(a / b for a, b in zip(row["seconds"], first["seconds"], strict=True))


def asked(row: dict[str, Any], counts: dict[str, Any]) -> str:
    """Passes of the U-Net, and those of the classifier with its gradient, for a picture."""
    found = counts["passes"].get(row["job"], {}).get(row["who"], {})
    return " + ".join(f"{each:g}" for each in found.values())


def three(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def timings(rows: Rows, counts: dict[str, Any]) -> str:
    """One size and job: who took how long."""
    head = ("", "ms a step", "times ours", "GFLOP/s", "of matmul", "compiling, s", "memory, MiB", "passes")
    size, body = SIZES[rows[0]["size"]], []
    for row in rows:
        seconds = median(row["seconds"])
        steps = size.train_steps if row["job"] == "train" else size.steps
        body.append(
            (
                row["who"],
                three(1000 * seconds / steps),
                f"{gain(row, rows[0]):.2f}",
                f"{work(row, counts) / seconds / 1e9:.0f}",
                f"{share(row, counts):.0%}",
                f"{row['compile']:.1f}",
                f"{row['memory']:.0f}",
                asked(row, counts),
            )
        )
    return table(head, body)


def operations(counts: dict[str, dict[str, Any]]) -> str:
    """Of these sizes: operations for one picture, counted at both sides."""
    head = ("", "network", "ours, torch's rules", "torch", "difference", "ours, XLA's count")
    body = []
    for size, found in counts.items():
        for name, ours in found["ours"].items():
            theirs = found.get("torch", {}).get(name)
            there = (f"{theirs / 1e6:.2f}", f"{theirs / ours - 1:+.1%}") if theirs else ("", "")
            body.append((size, name, f"{ours / 1e6:.2f}", *there, f"{found['xla'][name] / 1e6:.2f}"))
    return table(head, body)


def about(rows: Rows) -> str:
    """One paragraph: where these were measured, with what, how busy it was."""
    size, place, loads = SIZES[rows[0]["size"]], rows[-1]["machine"], [row["load"] for row in rows]
    packages: dict[str, str] = {}
    for row in rows:
        packages |= row["versions"]
    rates = []
    for dtype in dict.fromkeys(SIZES[row["size"]].dtype for row in rows):
        products = [each for row in rows if SIZES[row["size"]].dtype == dtype for each in row["matmul"]]
        rates.append(f"{matmul_flops(size) / median(products) / 1e9:.0f} GFLOP/s in {dtype}")
    gpu = f"{rows[-1]['device']}; " if size.device == "gpu" else ""
    return (
        f"{gpu}{place['cpu']}, {place['cores']} cores, Python {place['python']}; "
        f"{', '.join(f'{name} {version}' for name, version in sorted(packages.items()))}. "
        f"The product of two matrices of {' x '.join([str(MATMUL[size.device][0])] * 2)}: {', '.join(rates)}. "
        f"The load average was {min(loads):.1f} to {max(loads):.1f} when a part began, the benchmark's own included."
    )


def pages(known: dict[str, Any]) -> dict[str, str]:
    """The tables by name."""
    found = {}
    for device in MATMUL:
        counts = {size: count for size, count in known["counts"].items() if SIZES[size].device == device}
        rows = [row for row in known["rows"] if row["size"] in counts]
        if rows:
            found |= {f"machine, {device}": about(rows), f"operations, {device}": operations(counts)}
        for size in counts:
            for job in jobs(SIZES[size]):
                chosen = [row for row in rows if (row["size"], row["job"]) == (size, job)]
                if chosen:
                    found[f"{size}, {job}"] = timings(chosen, counts[size])
    return found
