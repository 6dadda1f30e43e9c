"""``sis web``: a page that shows a graph, its jobs and what came out; it draws from ``view`` alone."""
