"""Reports of runs and studies, each one HTML page. `read` reads a run's folder, `page` and `arms` draw."""
