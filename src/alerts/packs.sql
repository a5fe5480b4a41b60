-- alerts, packs: ready-made rules; export and import.

