"""Sums the orders of each customer into a JSON file, and prints it."""

import csv
import json
import sys
from collections import defaultdict
from decimal import Decimal
from pathlib import Path


def main(orders: Path, summary: Path) -> None:
    totals: dict[str, Decimal] = defaultdict(Decimal)
    with orders.open(newline="") as lines:
        for order in csv.DictReader(lines):
            totals[order["customer"]] += Decimal(order["amount"])
    text = json.dumps({name: str(total) for name, total in sorted(totals.items())})
    summary.write_text(text)
    print(summary.read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
