-- alerts, backtest: what a rule would say now, and what it would have done.

