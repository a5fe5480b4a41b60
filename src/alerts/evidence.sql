-- alerts, evidence: what the server was doing when an alert fired.

