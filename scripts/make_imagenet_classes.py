#!/usr/bin/env python3
"""Write the names of ImageNet-1k's classes, from WordNet itself.

    python scripts/make_imagenet_classes.py --wordnet /usr/share/wordnet/data.noun --wnids wnids.txt

A class of ImageNet is a noun of WordNet 3.0 (Debian: ``apt-get install wordnet-base``): ``n01440764`` is the one at
byte 1440764 of ``data.noun``. The 1,000 identifiers, sorted, are the labels 0 to 999; without ``--wnids`` those of the
present file are kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from paddle_dla.data.class_names import IMAGENET
from paddle_dla.storage.atomic import atomic_path


def synonyms(wordnet: bytes, wnid: str) -> str:
    """``tench, Tinca tinca`` for ``n01440764``. Raises ``ValueError`` where WordNet has no such noun."""
    offset = int(wnid[1:])
    fields = wordnet[offset : offset + 1000].decode("ascii").split()
    if fields[:1] != [wnid[1:]] or fields[2] != "n":
        raise ValueError(f"{wnid} is no noun of this WordNet; ImageNet was built on version 3.0")
    words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
    return ", ".join(word.replace("_", " ") for word in words)


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet/data.noun"))
    parser.add_argument("--wnids", type=Path, help="text file, one identifier a line")
    arguments = parser.parse_args()
    source = arguments.wnids or IMAGENET
    wnids = sorted(line.split("\t")[0] for line in source.read_text(encoding="utf-8").splitlines())
    wordnet = arguments.wordnet.read_bytes()
    lines = [f"{wnid}\t{synonyms(wordnet, wnid)}\n" for wnid in wnids]
    with atomic_path(IMAGENET) as part:
        part.write_text("".join(lines), encoding="utf-8")
    print(f"{IMAGENET}: {len(lines)} classes, from {lines[0].split()[1]} to {lines[-1].split(None, 1)[1].strip()}")


if __name__ == "__main__":
    main()
