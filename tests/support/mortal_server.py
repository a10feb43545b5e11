"""A stand-in for the stdio server that dies of a request: `mortal_server.py LIVES FATAL`.

It writes each request, in the order of reading, to the file that BUS_DB names. The first LIVES processes answer
nothing, and kill themselves once they have read a request of the method or tool FATAL; later ones answer everything.
So a test knows, without waiting, which server had received which requests when it died.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

DIED = "died"


def main(lives: int, fatal: str, log: Path) -> None:
    with log.open("a+", buffering=1) as said:
        said.seek(0)
        immortal = said.read().split().count(DIED) >= lives
        for line in sys.stdin:
            message = json.loads(line)
            called = message.get("params", {}).get("name") or message["method"]
            print(called, file=said)
            if immortal and "id" in message:
                print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {}}), flush=True)
            elif called == fatal:
                print(DIED, file=said)
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(os.environ["BUS_DB"]))
