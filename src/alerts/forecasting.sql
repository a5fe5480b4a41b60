-- alerts, forecasting: the rule kinds anomaly and forecast.

