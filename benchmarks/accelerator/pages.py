"""What was measured on an accelerator, as a table."""

from statistics import median
from typing import Any

from benchmarks.accelerator.sizes import IN_TORCH, NETWORKS, PROGRAMS, ROWS, TINY
from benchmarks.measured import table, where
from benchmarks.speed.sizes import matmul_flops
from benchmarks.speed.tables import gain, three

Rows = list[dict[str, Any]]


def milliseconds(row: dict[str, Any]) -> float:
    """Of one step."""
    work = NETWORKS[row["network"]].work
    return 1000 * median(row["seconds"]) / (work.train_steps if row["job"] == "train" else work.steps)


def matmul(row: dict[str, Any]) -> float:
    """The rate of the product of two matrices in the same rounds, in operations a second."""
    return matmul_flops(NETWORKS[row["network"]].work) / median(row["matmul"])


def rate(row: dict[str, Any], ours: dict[str, Any] | None) -> float | None:
    """Operations a second, by those that are counted of ours; None where ours was not measured."""
    return ours["operations"] / median(row["seconds"]) if ours else None


def say(row: dict[str, Any]) -> str:
    """One line of progress."""
    return f"{row['network']} {row['job']}, {row['who']}: {three(milliseconds(row))} ms a step"


def accelerator_table(rows: Rows) -> str:
    """A line a row and program, in the order of importance."""
    head = ("", "program", "ms a step", "times ours", "TFLOP/s", "of matmul", "memory, GiB", "compiling, s")
    body = []
    for network, job in ROWS:
        found = [row for row in rows if (row["network"].removesuffix(TINY), row["job"]) == (network, job)]
        ours = next(iter(where(found, who=PROGRAMS[0])), None)
        for row in sorted(found, key=lambda row: PROGRAMS.index(row["who"])):
            each, together = rate(row, ours), ours and len(ours["seconds"]) == len(row["seconds"])
            body.append(
                (
                    f"{row['network']}, {job}",
                    row["who"] + (f", {row['attention']} attention" if row.get("attention") else ""),
                    three(milliseconds(row)),
                    f"{gain(row, ours):.2f}" if ours and together else "",
                    f"{each / 1e12:.3g}" if each else "",
                    f"{each / matmul(row):.0%}" if each else "",
                    f"{row['memory'] / 1024:.2f}",
                    f"{row['compile']:.0f}",
                )
            )
    return table(head, body)


def text(rows: Rows) -> str:
    """The table, the chip, and what has no row."""
    if not rows:
        return "Nothing is measured yet."
    chips = ", ".join(dict.fromkeys(row["device"] for row in rows))
    versions = {name: version for row in rows for name, version in row["versions"].items()}
    packages = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    rates = f"{min(map(matmul, rows)) / 1e12:.3g} to {max(map(matmul, rows)) / 1e12:.3g} TFLOP/s"
    line = f"{chips}; {packages}. The product of two matrices in bfloat16: {rates}."
    missing = [name for name in dict.fromkeys(row.network for row in ROWS) if name not in IN_TORCH]
    if any("torch" in row["who"] for row in rows):
        line += f" Of {', '.join(missing)} there is none in diffusers to compare with."
    return f"{accelerator_table(rows)}\n\n{line}"
