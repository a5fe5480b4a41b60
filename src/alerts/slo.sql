-- alerts, objectives: SLOs, their error budgets and the rules that watch them, status page components.

