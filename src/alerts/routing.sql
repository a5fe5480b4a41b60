-- alerts, routing: which receiver is told of which alert, when, and in which group.

