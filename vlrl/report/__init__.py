"""Reports of runs and studies, one HTML page each. `read` reads a run's folder; `page` and `arms` write the pages."""
