"""One command for everything that the continuous engine has to show on a GPU.

    python -m benchmarks.gpu --json out.json
    python -m benchmarks.gpu --only limits,start,batch1,batch64 --within 400
    python -m benchmarks.gpu --model tiny --device cpu

The model's weights are random and made on the device, in bfloat16. Every limit that a figure is
compared with is measured in the same run. A part that fails or is stuck costs no other part its
row: its traceback is printed, and past its time limit the run ends with the table so far.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from palma.models.device import prepare_environment

prepare_environment()  # before torch is imported, as `palma serve` does

import torch  # noqa: E402

from benchmarks.gpu.bench import Bench  # noqa: E402
from benchmarks.gpu.decode import batch1, batch64, start  # noqa: E402
from benchmarks.gpu.equal import equal  # noqa: E402
from benchmarks.gpu.kernels import kernels  # noqa: E402
from benchmarks.gpu.latency import itl, ttft  # noqa: E402
from benchmarks.gpu.mix import mix256, over_http  # noqa: E402
from benchmarks.gpu.model import SHAPES  # noqa: E402
from benchmarks.gpu.peer import VARIANTS, peer  # noqa: E402
from benchmarks.gpu.table import failed, render  # noqa: E402
from benchmarks.gpu.weights import weights  # noqa: E402
from benchmarks.gpu.workload import FULL, SMALL  # noqa: E402

STUCK_STATUS = 3
TRACEBACK_CHARS = 2500


def limits(bench: Bench) -> None:
    """The rates that bound the others."""
    bench.note(**asdict(bench.limits))
    bench.add("limits of the device", str(bench.limits))


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the run, and the seconds after which it is given up."""

    run: Callable[[Bench], None]
    limit_s: float


PARTS: dict[str, Part] = {  # in this order: those that share an engine stand together
    "kernels": Part(kernels, 300),
    "limits": Part(limits, 40),
    "equal": Part(equal, 240),
    "start": Part(start, 150),
    "batch1": Part(batch1, 60),
    "batch64": Part(batch64, 60),
    "ttft": Part(ttft, 40),
    "itl": Part(itl, 60),
    "mix256": Part(mix256, 120),
    "http": Part(over_http, 150),
    "peer": Part(peer, 200),
    "weights": Part(weights, 180),
}
BOUNDED = {"batch1", "batch64"}
"""They need the limits, which want more memory than an engine leaves."""


def main() -> None:
    """Run the parts that the command line names, and print the table."""
    arguments = _parse()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    is_small = arguments.small or arguments.model == "tiny"
    bench = Bench(
        device_kind=arguments.device,
        model_name=arguments.model,
        workload=SMALL if is_small else FULL,
        max_model_len=arguments.max_model_len,
        peers=tuple(arguments.peers),
        num_clients=arguments.clients,
    )
    report = Report(bench, arguments.json)
    bounded = {"limits"} if BOUNDED & set(arguments.only) else set()
    for name in (name for name in PARTS if name in {*arguments.only, *bounded}):
        if time.monotonic() - bench.started_s > arguments.within - PARTS[name].limit_s / 4:
            bench.rows.append(failed(name, f"left out: little was left of {arguments.within:g} s"))
            continue
        with report.guarding(name):
            PARTS[name].run(bench)
    bench.part = "end"
    bench.drop_model()
    report.print()


class Report:
    """Runs parts under guard, and tells what came of them.

    Args:
        bench: Has the rows.
        path: Where the figures go as JSON after each part; None for nowhere.
    """

    def __init__(self, bench: Bench, path: Path | None) -> None:
        self._bench = bench
        self._path = path

    @contextmanager
    def guarding(self, name: str) -> Iterator[None]:
        """Time the body; print what it raises; end the process when it is stuck."""
        bench, limit_s = self._bench, PARTS[name].limit_s
        bench.part, bench.part_ends_s = name, time.monotonic() + limit_s
        bench.say(f"begins, {limit_s:g} s at most")
        watchdog = threading.Timer(limit_s + 30, self._give_up)
        watchdog.daemon = True
        watchdog.start()
        started = time.monotonic()
        try:
            yield
        except Exception as error:  # noqa: BLE001  # the other parts go on
            print(traceback.format_exc()[-TRACEBACK_CHARS:], flush=True)
            bench.rows.append(failed(name, f"{type(error).__name__}: {error}"[:200]))
            bench.note(error=repr(error))
        finally:
            watchdog.cancel()
            bench.note(seconds=time.monotonic() - started)
            bench.say(f"took {time.monotonic() - started:.1f} s")
            self._save()

    def print(self) -> None:
        """Print the table, and save the figures."""
        print(f"\n{_machine(self._bench)}\n\n{render(self._bench.rows)}", flush=True)
        self._save()

    def _give_up(self) -> None:
        bench = self._bench
        faulthandler.dump_traceback(sys.stdout)
        bench.rows.append(failed(bench.part, "stuck: the run ends here"))
        self.print()
        os._exit(STUCK_STATUS)

    def _save(self) -> None:
        if self._path is None:
            return
        bench = self._bench
        report: dict[str, Any] = {
            "machine": _machine(bench),
            "model": bench.model_name,
            "workload": asdict(bench.workload),
            "parts": bench.figures,
            "rows": [row.to_json() for row in bench.rows],
        }
        self._path.write_text(json.dumps(report, indent=1, default=str))


def _machine(bench: Bench) -> str:
    import transformers

    is_cuda = bench.device.type == "cuda"
    name = torch.cuda.get_device_name() if is_cuda else platform.processor() or "CPU"
    return (
        f"{bench.model_name} on {name}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--model", choices=SHAPES, default="8b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--only", type=_names_of(PARTS), default=list(PARTS), help=f"some of {','.join(PARTS)}"
    )
    parser.add_argument(
        "--peers",
        type=_names_of(VARIANTS),
        default=["flash", "flash-graphs", "sdpa"],
        help=f"some of {','.join(VARIANTS)}; they share the time of the part",
    )
    parser.add_argument("--small", action="store_true", help="few and short requests")
    parser.add_argument("--within", type=float, default=1e9, help="seconds for the whole run")
    parser.add_argument("--clients", type=int, default=4, help="processes that ask through HTTP")
    parser.add_argument("--max-model-len", type=int, default=8192)
    parser.add_argument("--json", type=Path, help="a file for all figures")
    return parser.parse_args()


def _names_of(known: dict[str, Any]) -> Callable[[str], list[str]]:
    """Return a reader of comma lists of these names, which come back in their own order."""

    def names(text: str) -> list[str]:
        asked = text.split(",")
        if unknown := sorted(set(asked) - set(known)):
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown)} is not one of {', '.join(known)}"
            )
        return [name for name in known if name in asked]

    return names


if __name__ == "__main__":
    main()
