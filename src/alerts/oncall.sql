-- alerts, on call: contacts and on-call schedules.

