"""Run one target of `targets`: `python tests/fuzz/run.py reply --runs 100000`, or `--seconds 300`.

Engines: atheris (libFuzzer: it follows coverage) where it is installed, otherwise `mutate`, a loop that changes the
corpus at random and knows nothing of coverage. What it prints says which one ran and how often: `mutate` in its last
line, with how many times a reply parser was run from its first octet; libFuzzer in its statistics. An input that breaks
an invariant is shown, and is left as a file in the directory given by `--findings` (else where temporary files are).
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import random
import runpy
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LONGEST = 4_096  # octets of an input: the caps of the parser have tests of their own


def corpus(name: str) -> list[bytes]:
    """The inputs to begin with: a bytes literal on each line of `corpus/NAME.txt`."""
    lines = (HERE / "corpus" / f"{name}.txt").read_text(encoding="ascii").splitlines()
    return [ast.literal_eval(line) for line in lines if not line.startswith("#")]


def tokens() -> list[bytes]:
    """What inputs are made of."""
    return corpus("tokens")


def mutated(inputs: Sequence[bytes], words: Sequence[bytes], chance: random.Random) -> bytes:
    """One input, changed in a few places."""
    octets = chance.choice(inputs)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(octets) + 1)
        to = min(len(octets), at + chance.randrange(1, 12))
        match chance.randrange(6):
            case 0:
                octets = octets[:at] + chance.choice(words) + octets[at:]
            case 1:
                octets = octets[:at] + octets[to:]
            case 2:
                octets = octets[:to] + octets[at:]
            case 3:
                octets = octets[:at] + bytes([chance.randrange(256)]) + octets[at + 1 :]
            case 4:
                octets = octets[:at] + chance.choice(inputs)
            case _:
                octets = octets[:at] + chance.choice(words) + octets[to:]
    return octets[:LONGEST]


def mutate(target: Callable[[bytes], None], name: str, *, runs: int, seconds: float, seed: int, findings: Path) -> int:
    """The loop without coverage; how often it ran."""
    inputs, words, chance = corpus(name), tokens(), random.Random(seed)  # noqa: S311  # repeatable
    until = time.monotonic() + seconds if seconds else None
    done = 0
    while done < runs or runs < 0:
        if until is not None and not done % 256 and time.monotonic() > until:
            break
        octets = inputs[done] if done < len(inputs) else mutated(inputs, words, chance)
        try:
            target(octets)
        except BaseException:
            print(f"{name}: {octets!r}", file=sys.stderr)
            (findings / f"{name}-{seed}-{done}").write_bytes(octets)
            raise
        done += 1
    return done


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--runs", type=int, default=-1)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=["atheris", "mutate"])
    parser.add_argument("--findings", type=Path, default=Path(tempfile.gettempdir()))
    given = parser.parse_args(arguments)
    given.findings.mkdir(parents=True, exist_ok=True)
    engine = given.engine or ("atheris" if importlib.util.find_spec("atheris") else "mutate")
    if engine == "atheris":
        follow_coverage(given)
        return
    targets = _targets()
    options = {"runs": given.runs, "seconds": given.seconds, "seed": given.seed, "findings": given.findings}
    done = mutate(targets["TARGETS"][given.target], given.target, **options)
    print(f"engine=mutate runs={done} parser={targets['EXECUTIONS']['parser']}")


def _targets() -> dict[str, Any]:
    """The names of the file beside this one: the tests are never on `sys.path`."""
    return runpy.run_path(str(HERE / "targets.py"))


def follow_coverage(given: argparse.Namespace) -> None:
    """Hand over to libFuzzer, which ends the process."""
    import atheris

    with atheris.instrument_imports(include=["smtpconn"]):
        target = _targets()["TARGETS"][given.target]
    work = Path(tempfile.mkdtemp(prefix="smtpconn-fuzz-"))
    (work / "corpus").mkdir()
    for number, octets in enumerate(corpus(given.target)):
        (work / "corpus" / str(number)).write_bytes(octets)
    words = ['"' + "".join(f"\\x{octet:02x}" for octet in word) + '"' for word in tokens()]
    (work / "tokens").write_text("\n".join(words), encoding="ascii")
    limits = [f"-runs={given.runs}", f"-seed={given.seed}", f"-max_len={LONGEST}", "-print_final_stats=1", "-timeout=5"]
    limits += [f"-max_total_time={int(given.seconds)}", f"-dict={work / 'tokens'}"]
    limits.append(f"-artifact_prefix={given.findings}/{given.target}-")
    print("engine=atheris", flush=True)
    atheris.Setup([sys.argv[0], *limits, str(work / "corpus")], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
