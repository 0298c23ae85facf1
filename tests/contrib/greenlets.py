"""The program of `test_greenlets`: what it saw is printed as JSON. `none` or `implicit`: the TLS mode."""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402  # gevent asks to be first
import sys  # noqa: E402

import gevent  # noqa: E402

from smtpconn import ConnectionPool, PoolTimeoutError, TlsConfig, TlsMode  # noqa: E402
from smtpconn.testing import ServerProcess  # noqa: E402

GREENLETS, MAILS = 50, 6


def main(mode: TlsMode) -> None:
    with ServerProcess(rtt=0.02, tls=None if mode is TlsMode.NONE else "implicit") as server:
        config = TlsConfig(trust=server.ca_path, server_name="localhost") if server.ca_path else None
        with ConnectionPool(server.host, server.port, mode, timeout=30, max_size=4, tls_config=config) as pool:
            seen = {**burst(pool), "in vain": in_vain(pool), "killed": killed(pool, server)}
            stats = pool.stats()
        report = server.report()
    seen |= {
        "left": [stats.leased, stats.opening, stats.waiting],
        "peak": report["connections_peak"],
        "more than once": [row for row in report["ledger"] if row[2] != 1],
        "arrived": len(report["ledger"]),
        "violations": report["violations"],
    }
    print(json.dumps(seen))


def send(pool: ConnectionPool, name: str) -> bool:
    return pool.send("a@x.test", ["b@x.test"], f"X-Id: {name}\r\n\r\nx\r\n".encode()).all_delivered


def burst(pool: ConnectionPool) -> dict[str, int]:
    """Greenlets share the pool, and another one goes on meanwhile: nothing blocks the loop."""
    turns = 0

    def others() -> None:
        nonlocal turns
        while True:
            gevent.sleep(0.005)
            turns += 1

    other = gevent.spawn(others)
    jobs = [gevent.spawn(lambda who=who: [send(pool, f"{who}.{n}") for n in range(MAILS)]) for who in range(GREENLETS)]
    gevent.joinall(jobs, raise_error=True)
    other.kill()
    return {"delivered": sum(sum(job.value) for job in jobs), "turns of others": turns}


def in_vain(pool: ConnectionPool) -> str:
    """A greenlet that finds no connection within its timeout."""
    leases = [pool.connection() for _ in range(4)]
    for lease in leases:
        lease.__enter__()
    try:
        pool.send("a@x.test", ["b@x.test"], b"x\r\n", timeout=0.1)
    except PoolTimeoutError as error:
        return type(error).__name__
    finally:
        for lease in leases:
            lease.__exit__(None, None, None)
    return "sent"


def killed(pool: ConnectionPool, server: ServerProcess) -> str:
    """A greenlet that is killed while it waits for a reply leaves its place in the pool to others."""
    server.call("fault", "MAIL", "silence", nth=1)
    before = server.report()["transactions"]
    job = gevent.spawn(send, pool, "killed")
    while server.report()["transactions"] == before:
        gevent.sleep(0.01)
    job.kill()
    return "replaced" if send(pool, "after") else "lost"


if __name__ == "__main__":
    main({"none": TlsMode.NONE, "implicit": TlsMode.IMPLICIT}[sys.argv[1]])
