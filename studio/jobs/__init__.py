"""Jobs that outlive the page: a durable store, a worker process, a supervisor that restarts it."""
