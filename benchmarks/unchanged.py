"""Whether this checkout makes what another one made: `python -m benchmarks.unchanged OTHER [--only NAME]`.

Runs the commands below in both, each on one thread, on inputs made from a shipped picture, and compares every file and
every word that came out. Says for each command "same bytes", or which files differ and by how many dB.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

HERE = Path(__file__).parent.parent
# What differs from run to run: durations, alone or in JSON and HTML.
TIMES = re.compile(rb"\(?\d+(\.\d+)? (s\)|seconds|minutes)|\"(seconds|minutes)\": [\d.]+|seconds</dt><dd>[\d.]+")

COMMANDS = {
    "grey": "restore in/grey.png -o out",
    "colour, samples, compare, JSON": "restore in/colour.png -o out --samples 2 --compare --json -v",
    "16 bit, record, map": "restore in/deep.png -o out --record out/deep.gif --kernel-map out/deep.map.png -v",
    "known kernel": "restore in/photo.jpg -o out --kernel in/kernel.npy --json",
    "known kernel in linear light, tiles": "restore in/colour.png -o out --kernel in/kernel.npy --linear --tile 80 -v",
    "whole photo": "restore in/large.jpg -o out --report out/report.html",
    "preview, sharp": "restore in/sharp.png -o out --preview",
    "blinddps": "restore in/small.png -o out --method blinddps --steps 12 --record out/small.gif",
    "blinddps, tiles": "restore in/colour.png -o out --method blinddps --steps 4 --kernel-size 15 --tile 64",
    "blinddps, uniform": "restore in/small.png -o out --method blinddps --steps 12 --kernel-prior uniform",
    "blinddps, conditioned": "restore in/colour.png -o out --method blinddps --steps 4 --kernel-prior conditioned",
    "dps": "restore in/colour.png -o out --method dps --steps 8 --kernel in/kernel.npy --tile 80",
    "dps, Poisson": "restore in/colour.png -o out --method dps --steps 8 --kernel in/kernel.npy --noise poisson",
    "ddnm": "restore in/colour.png -o out --method ddnm --steps 8 --kernel in/kernel.npy",
    "diffpir": "restore in/colour.png -o out --method diffpir --steps 8 --kernel in/kernel.npy --tile 80",
    "folder, workers": "restore in/several -o out --workers 2 --json",
    "dry run": "restore in/several -o out --dry-run",
    "turbulence": "turbulence in/frames -o out --stabilised out/still.gif --record out/how.gif --json",
    "turbulence, one frame": "turbulence in/frames/0.png -o out -v",
    "turbulence, blinddps": "turbulence in/small.png -o out --method blinddps --steps 6",
    "sample image": "sample image -o out --steps 8 --size 64 --number 2",
    "sample kernel": "sample kernel -o out --steps 8",
    "sample tilt": "sample tilt -o out --size 64",
    "list": "download-weights --list",
    "help": "restore --help",
}


def make_inputs(folder: Path) -> None:
    """Photos, frames and a kernel, from the page of the README."""
    rng = np.random.default_rng(0)
    page = cv2.imread(str(HERE / "examples" / "page.jpg"))
    colour = page[100:228, 200:360]
    (folder / "several").mkdir(parents=True)
    (folder / "frames").mkdir()
    kernel = np.zeros((9, 9), np.float32)
    np.fill_diagonal(kernel[:, 1:], 1)
    np.save(folder / "kernel.npy", kernel / kernel.sum())
    cv2.imwrite(str(folder / "colour.png"), colour)
    cv2.imwrite(str(folder / "photo.jpg"), colour)
    cv2.imwrite(str(folder / "large.jpg"), cv2.resize(page, None, fx=1.2, fy=1.2)[:430, :440])
    cv2.imwrite(str(folder / "grey.png"), cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY))
    cv2.imwrite(str(folder / "small.png"), cv2.cvtColor(colour[:64, :64], cv2.COLOR_BGR2GRAY))
    cv2.imwrite(str(folder / "deep.png"), colour.astype(np.uint16) * 257)
    checks = np.kron(rng.integers(0, 2, (20, 20)), np.ones((8, 8))) * 200 + 20
    cv2.imwrite(str(folder / "sharp.png"), (checks + rng.normal(0, 1, checks.shape)).clip(0, 255).astype(np.uint8))
    for index in range(2):
        cv2.imwrite(str(folder / "several" / f"{index}.png"), page[index * 90 :][:90, :100])
    rows, columns = np.mgrid[:96, :112].astype(np.float32)
    for index in range(4):
        tilt = cv2.GaussianBlur(rng.normal(0, 12, (96, 112, 2)).astype(np.float32), (0, 0), 6)
        frame = cv2.remap(page[150:260, 220:340], columns + 4 + tilt[..., 0], rows + 4 + tilt[..., 1], cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "frames" / f"{index}.png"), frame)


def run(checkout: Path, work: Path, command: str) -> dict[str, bytes]:
    """What a command of that checkout writes and says, by the names of its files."""
    out = work / "out"
    out.mkdir()
    environment = os.environ | {
        "PYTHONPATH": str(checkout),
        "OMP_NUM_THREADS": "1",
        "BLINDDEBLUR_CACHE": "no-such-folder",
        "COLUMNS": "100",
    }
    device = () if command.startswith("download") or "--help" in command else ("--device", "cpu")
    said = subprocess.run(
        [sys.executable, "-m", "blinddeblur", *command.split(), *device],
        cwd=work,
        env=environment,
        capture_output=True,
    )
    made = {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    for path in sorted(out.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    out.rmdir()
    # Progress comes and goes with the speed of the machine; places of the package are those of the checkout.
    stderr = b"".join(line for line in said.stderr.splitlines(True) if not re.search(rb": .* \d+/\d+", line))
    spoken = said.stdout + stderr + b"exit code %d" % said.returncode
    made["what was said"] = b"\n".join(sorted(map(_sorted, spoken.replace(bytes(checkout), b"").splitlines())))
    return {name: TIMES.sub(b"", data) for name, data in made.items()}


def _sorted(line: bytes) -> bytes:
    """A line of JSON with its keys in order and without null, which says as much as nothing; any other as it is."""
    try:
        facts = json.loads(line)
    except ValueError:
        return line
    return json.dumps({key: value for key, value in facts.items() if value is not None}, sort_keys=True).encode()


def difference(ours: bytes, theirs: bytes, name: str) -> str:
    """How far two files of one name are apart, in words."""
    if name.endswith((".png", ".jpg")):
        a, b = (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) for data in (ours, theirs))
        if a is not None and b is not None and a.shape == b.shape and a.dtype == b.dtype:
            error = np.square((a.astype(float) - b) / np.iinfo(a.dtype).max).mean()
            return "other bytes, same pixels" if error == 0 else f"{-10 * np.log10(error):.1f} dB"
    if name == "what was said":
        lines = (sorted(set(data.decode().splitlines())) for data in (ours, theirs))
        here, there = map(set, lines)
        return "\n".join([*(f"    + {line}" for line in here - there), *(f"    - {line}" for line in there - here)])
    return "other bytes"


def main() -> None:
    """Compare, and leave with exit code 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="another checkout")
    parser.add_argument("--only", help="commands whose name contains this")
    options = parser.parse_args()
    different = 0
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        make_inputs(work / "in")
        for title, command in COMMANDS.items():
            if options.only and options.only not in title:
                continue
            theirs, ours = (run(checkout.resolve(), work, command) for checkout in (options.other, HERE))
            apart = [n for n in sorted(theirs.keys() | ours.keys()) if theirs.get(n) != ours.get(n)]
            different += bool(apart)
            print(f"{title}: {'same bytes, ' + str(len(ours)) + ' files' if not apart else 'DIFFERENT'}", flush=True)
            for n in apart:
                both = n in ours and n in theirs
                print(f"  {n}: {difference(ours[n], theirs[n], n) if both else 'only in one'}", flush=True)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
