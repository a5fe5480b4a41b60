-- alerts, statistics: how often alerts fire, how fast people act, how much of it is noise.

