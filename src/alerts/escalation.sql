-- alerts, escalation: who is told next when nobody acts; contacts and on-call schedules.

