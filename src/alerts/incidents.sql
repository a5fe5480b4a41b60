-- alerts, incidents: what alerts and people open, its timeline and its report.

