"""`python -m tests.simulation SEED [COUNT]`: the trace of one seed, or the violations of many."""

import sys
import time

from tests.simulation.simulation import plan_of, simulate


def main(first: int, count: int) -> int:
    started = time.monotonic()
    results = [simulate(seed, keep_trace=count == 1) for seed in range(first, first + count)]
    if count == 1:
        print(*results[0].trace, plan_of(first), sep="\n")
    for result in results:
        for violation in result.violations:
            print(f"seed {result.seed}: {violation}")
    elapsed_s = time.monotonic() - started
    virtual_h = sum(result.virtual_s for result in results) / 3600
    writes = sum(result.acknowledged_count for result in results)
    starts = sum(result.start_count for result in results)
    print(
        f"{count} seeds in {elapsed_s:.1f} s, {virtual_h:.1f} virtual hours,"
        f" {writes} writes, {starts} starts; digest {results[-1].digest[:16]}"
    )
    return int(any(result.violations for result in results))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1))
