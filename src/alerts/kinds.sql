-- alerts, rule kinds: functions that give the values of all rules of a kind in one statement.

