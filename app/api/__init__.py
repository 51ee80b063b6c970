"""Everything that knows HTTP: paths, headers, bodies, status codes. The work itself is a servable's."""
