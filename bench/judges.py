"""How many judged responses a second the scoring pool handles: python -m bench.judges [--seconds-per-reply S]

The judge is a server in this process that replies after a fixed time, so the figures are the pool's and the client's own.
"""

import argparse
import json
import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from vlrl.authoring.task_tools import score_all
from vlrl.config import ScoringConfig
from vlrl.scoring import Scorer
from vlrl.scoring.start import open_services
from vlrl.types import Row

TASKS = Path(__file__).parents[1] / "tasks"
NUMBER = 400  # responses; each is another answer, and all are wrong, so that each is one request


def server(seconds: float) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            time.sleep(seconds)
            verdict = json.dumps({"verdict": re.findall(r"different-[0-9a-f]{12}", body)[-1]})
            choice = {"message": {"content": verdict}, "finish_reason": "stop"}
            content = json.dumps({"choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    found = Server(("127.0.0.1", 0), Handler)
    Thread(target=found.serve_forever, daemon=True).start()
    return found


def rate(url: str, concurrency: int) -> float:
    """Judged responses a second, with two workers that have started."""
    judge = {"url": url, "model": "none", "concurrency": concurrency}
    services = open_services(ScoringConfig.model_validate({"judges": {"judge": judge}}), None)
    row = Row(question="Which colour is the sky?", answer="blue")
    with Scorer([TASKS], 2, 60.0, memory_mb=2048, services=services) as scorer:
        score_all("judged_answer", [(f"\\boxed{{warm {number}}}", row) for number in range(8)], scorer)
        began = time.monotonic()
        scores = score_all("judged_answer", [(f"\\boxed{{lamp {number}}}", row) for number in range(NUMBER)], scorer)
        seconds = time.monotonic() - began
    assert all(score.status == "ok" for score in scores), next(score for score in scores if score.status != "ok")
    return NUMBER / seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.judges", description=__doc__)
    parser.add_argument("--seconds-per-reply", type=float, default=0.1)
    options = parser.parse_args()
    url = f"http://127.0.0.1:{server(options.seconds_per_reply).server_address[1]}/v1"
    for concurrency in (1, 8, 32, 64):
        print(f"{concurrency:3d} at a time: {rate(url, concurrency):6.1f} responses/s", flush=True)


if __name__ == "__main__":
    main()
