#!/usr/bin/env python3
"""show.py: the live view of the demo.

Asks the server every two seconds for percentiles, slow statements, alerts and
notifications, as any dashboard would, and tells what happens.  Deploys the bad
release at a quarter of the time and takes it back at the half.  Exit status 1
when the alert did not fire, did not resolve, or no notification arrived.
"""
import argparse
import json
import os
import subprocess
import sys
import time

STEP = 2.0
RULE = "transfers_slow"
TTY = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("NO_COLOR")
COLOUR = {"inactive": "32", "pending": "33", "firing": "31", "resolved": "32"}

LIVE = """
SELECT jsonb_build_object(
    'p50', monitoring.value('transfer_duration_seconds', 'p50', '10 seconds'),
    'p95', monitoring.value('transfer_duration_seconds', 'p95', '10 seconds'),
    'p99', monitoring.value('transfer_duration_seconds', 'p99', '10 seconds'),
    'total', monitoring.value('transfers_total', 'increase', '1 hour'),
    'amount', monitoring.value('transfer_amount', 'avg', '10 seconds'),
    'error', (SELECT monitoring.max_relative_error(monitoring.sketch(x)) FROM generate_series(1.0, 2.0) x),
    'alerts', (SELECT coalesce(jsonb_agg(a), '[]') FROM monitoring.alerts a),
    'slow', (SELECT coalesce(jsonb_agg(s), '[]') FROM
             (SELECT * FROM monitoring.slow_queries ORDER BY max_seconds DESC LIMIT 3) s),
    'notifications', (SELECT coalesce(jsonb_agg(n), '[]') FROM monitoring.notifications n))
"""


class Server:
    """One psql that stays connected; a statement in, one line out."""

    def __init__(self, command):
        self.psql = subprocess.Popen(command + ["-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"], text=True,
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, statement):
        """The one line that the statement returns."""
        self.psql.stdin.write(" ".join(statement.split()) + ";\n")
        self.psql.stdin.flush()
        line = self.psql.stdout.readline()
        if not line:
            raise SystemExit("the server did not answer: psql ended with status %s" % self.psql.wait())
        return line.strip()

    def close(self):
        self.psql.stdin.close()
        self.psql.wait()


def paint(text, code):
    return "\033[%sm%s\033[0m" % (code, text) if TTY else text


def milliseconds(seconds):
    return "%8.1f ms" % (seconds * 1000) if seconds is not None else "       -   "


def number(value, form="{:,.0f}"):
    return form.format(value) if value is not None else "-"


def shorten(text, width):
    text = " ".join((text or "").split())
    return text if len(text) <= width else text[:width - 1] + "…"


class Screen:
    """A block of lines redrawn in place on a terminal; one line per step elsewhere."""

    def __init__(self):
        self.drawn = 0

    def event(self, text):
        self.erase()
        print(text, flush=True)

    def erase(self):
        if TTY and self.drawn:
            sys.stdout.write("\033[%dA\033[J" % self.drawn)
        self.drawn = 0

    def draw(self, lines, plain):
        if TTY:
            self.erase()
            print("\n".join(lines), flush=True)
            self.drawn = len(lines)
        else:
            print(plain, flush=True)


def bar(done, width=30):
    full = int(round(width * min(1.0, done)))
    return "█" * full + "░" * (width - full)


def panel(elapsed, seconds, live, state):
    error = "± %.2f %%" % (100 * live["error"])
    lines = [
        "",
        "  %s %3.0f of %.0f s" % (bar(elapsed / seconds), elapsed, seconds),
        "  transfers       %8s    %s per second, %s on average" %
        (number(live["total"]), number(live["rate"], "{:.0f}"), number(live["amount"])),
        "  duration p50 %s   guaranteed %s" % (paint(milliseconds(live["p50"]), "1"), error),
        "           p95 %s   the last 10 seconds," % paint(milliseconds(live["p95"]), "1"),
        "           p99 %s   unflushed records included" % paint(milliseconds(live["p99"]), "1"),
        "  alert %s (p95 > 50 ms for 3 s): %s" % (RULE, paint(state, COLOUR.get(state, "0"))),
        "  slow statements (over 1 s):" if live["slow"] else "  slow statements (over 1 s): none seen yet",
    ]
    for slow in live["slow"]:
        lines.append("    %5.2f s p95 × %-4s %s" % (slow["p95_seconds"], number(slow["calls"]),
                                                     shorten(slow["query"], 70)))
    plain = "%3.0f s  %6s transfers  %4s/s  p50 %s  p95 %s  p99 %s (%s)  alert %s" % (
        elapsed, number(live["total"]), number(live["rate"], "{:.0f}"), milliseconds(live["p50"]).strip(),
        milliseconds(live["p95"]).strip(), milliseconds(live["p99"]).strip(), error, state)
    return lines, plain


def alert_state(live):
    states = [alert["state"] for alert in live["alerts"] if alert["rule"] == RULE]
    return next((s for s in ("firing", "pending", "resolved") if s in states), "inactive")


def received(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.endswith("\n")]


def alerts_of(request):
    body = request["body"]
    return body.get("alerts", []) if isinstance(body, dict) else []


def tells(request, rule, status):
    """Whether a webhook request tells of an alert of that rule with that status."""
    return any(a["status"] == status and a["labels"].get("alertname") == rule for a in alerts_of(request))


def watch(server, options):
    """Runs until the time is up and the alert is resolved and both notifications came; what was seen."""
    screen, seen, told, slow_told, before = Screen(), [], 0, False, None
    started = time.monotonic()
    deadline = options.seconds + 30
    acts = [(options.seconds * 0.25, 2, "33", "release 2 is deployed: its account lookup has no index"),
            (options.seconds * 0.5, 1, "32", "release 1 is back")]
    while True:
        elapsed = time.monotonic() - started
        while acts and elapsed >= acts[0][0]:
            _, release, colour, text = acts.pop(0)
            server.ask("UPDATE public.deployment SET release = %d RETURNING release" % release)
            screen.event("  %s  %s" % (clock(elapsed), paint(text, colour)))
        live = json.loads(server.ask(LIVE))
        now = time.monotonic()
        live["rate"] = (live["total"] - before[1]) / (now - before[0]) if before and live["total"] else None
        before = (now, live["total"] or 0)
        state = alert_state(live)
        if live["slow"] and not slow_told:
            slow_told = True
            screen.event("  %s  slow statement found: %s" % (clock(elapsed), paint(shorten(live["slow"][0]["query"], 70), "36")))
        if state != "inactive" and (not seen or seen[-1] != state):
            seen.append(state)
            screen.event("  %s  alert %s: %s" % (clock(elapsed), RULE, paint(state, COLOUR[state])))
        requests = received(options.received)
        for request in requests[told:]:
            screen.event("  %s  the receiver got POST %s: %s" % (clock(elapsed), request["path"],
                                                               paint(summary(request), "36")))
        told = len(requests)
        screen.draw(*panel(elapsed, options.seconds, live, state))
        complete = "resolved" in seen and any(tells(r, RULE, "resolved") for r in requests)
        if elapsed >= options.seconds and (complete or elapsed >= deadline):
            return seen, requests, live
        # A fixed beat, however long the questions took.
        time.sleep(STEP - (time.monotonic() - started) % STEP)


def clock(elapsed):
    return "%3.0f s" % elapsed


def summary(request):
    return "; ".join("%s %s: %s" % (a["labels"].get("alertname"), a["status"],
                                    shorten(a["annotations"].get("summary"), 70)) for a in alerts_of(request))


def report(seen, requests, live):
    """What happened, in full; True when all of it did."""
    print()
    print(paint("Slow statements found", "1"))
    for slow in live["slow"]:
        print("  %6.2f s mean, %6.2f s longest, %s calls: %s" % (
            slow["mean_seconds"], slow.get("max_seconds") or 0, number(slow["calls"]), shorten(slow["query"], 80)))
    print(paint("Alert %s" % RULE, "1") + ": " + " → ".join(seen))
    firing = next((r for r in requests if tells(r, RULE, "firing")), None)
    if firing:
        print(paint("The notification that the receiver got", "1"))
        for name, value in firing["headers"].items():
            if name.lower() not in ("host", "accept", "content-length", "connection"):
                print("  %s: %s" % (name, value))
        for line in json.dumps(firing["body"], indent=2, ensure_ascii=False).splitlines():
            print("  " + line)
    problems = [text for text, wrong in (
        ("no slow statement was found", not live["slow"]),
        ("the alert went %s instead of pending, firing, resolved" % (" → ".join(seen) or "nowhere"),
         [s for s in seen if s != "pending"][:2] != ["firing", "resolved"]),
        ("no firing notification arrived", not firing),
        ("no notification of a slow statement arrived", not any(tells(r, "statement_slow", "firing") for r in requests)),
        ("no resolved notification arrived", not any(tells(r, RULE, "resolved") for r in requests))) if wrong]
    for problem in problems:
        print(paint("failed: ", "31") + problem)
    return not problems


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--received", required=True)
    parser.add_argument("psql", nargs="+")
    options = parser.parse_args()
    sys.stdout.reconfigure(errors="replace")
    server = Server(options.psql)
    try:
        ok = report(*watch(server, options))
    except KeyboardInterrupt:
        print()
        return 130
    finally:
        server.close()
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
