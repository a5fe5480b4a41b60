-- alerts, silences: who is not told of which alert: silences, inhibition, time intervals.

