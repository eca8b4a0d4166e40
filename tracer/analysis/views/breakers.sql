-- Circuit breakers: when each one opened, tried again and closed, and why
SELECT (ts_ns::HUGEINT - began_ns)::DOUBLE / 1e6 AS ts_ms, name, old AS "from", new AS "to", why
FROM breaker_changes, (SELECT began_ns FROM session)
ORDER BY ts_ms, name
