"""python -m tests.faults [--quick] [--only PATTERN] [--jobs N] [--work FOLDER] [--json FILE] [--table FILE]

Runs the cells whose names have the pattern, prints each result, and exits with 1 if any cell failed.
"""

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.faults.cells import CELLS
from tests.faults.matrix import Result, run_cell
from tests.faults.runs import Runs
from tests.faults.table import table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only the faults that a test runs, in all their configurations")
    parser.add_argument("--only", default="", help="a regular expression; only the cells whose name has it")
    parser.add_argument("--missing", action="store_true", help="only the cells that the --json file has no good result of")
    parser.add_argument("--list", action="store_true", help="print the cells' names, and run none")
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time")
    parser.add_argument("--work", type=Path, help="folder for the runs; those of cells that fail stay in it")
    parser.add_argument("--json", type=Path, help="file for the results; those of an earlier call stay in it")
    parser.add_argument("--table", type=Path, help="file for the table of all results in the --json file")
    options = parser.parse_args()
    chosen = [cell for cell in CELLS if re.search(options.only, str(cell)) and (cell.fault.quick or not options.quick)]
    results: dict[str, Result] = {}
    if options.json and options.json.exists():
        results = {name: Result(**each) for name, each in json.loads(options.json.read_text()).items()}
    if options.missing:
        chosen = [cell for cell in chosen if str(cell) not in results or results[str(cell)].fault]
    if options.list:
        print("\n".join(map(str, chosen)))
        return 0
    work = options.work or Path(tempfile.mkdtemp(prefix="faults-"))
    work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    runs = Runs(work)
    with ThreadPoolExecutor(options.jobs) as pool:
        running = {pool.submit(run_cell, runs, cell): cell for cell in chosen}
        for done in as_completed(running):
            cell, result = running[done], done.result()
            results[str(cell)] = result
            print(f"{result.seconds:6.1f} s  {cell}: {result}", flush=True)
            if options.json:
                options.json.write_text(json.dumps({name: each.as_json() for name, each in results.items()}, indent=1) + "\n")
    failed = [cell for cell in chosen if results[str(cell)].fault]
    print(f"{len(chosen)} cells in {time.monotonic() - began:.0f} s, {len(failed)} failed; {len(CELLS)} cells in all")
    if options.table:
        options.table.write_text(table(results))
    if not options.work and not failed:
        shutil.rmtree(work)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
