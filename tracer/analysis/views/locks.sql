-- What long parks were on: each lock, queue, thread or GIL with who waited for it and who had it
SELECT resource_type AS type,
       resource AS name,
       resource_address AS address,
       pid,
       count(*) AS parks,
       count(DISTINCT tid) AS threads,
       least(sum(duration_ns), 9223372036854775807)::DOUBLE / 1e6 AS parked_ms,
       max(duration_ns)::DOUBLE / 1e6 AS longest_ms,
       string_agg(DISTINCT holder, ', ' ORDER BY holder) AS holders,
       arg_max(place, duration_ns) AS longest_at
FROM long_parks
WHERE resource_type IS NOT NULL AND idle IS NOT TRUE
GROUP BY pid, type, name, address
ORDER BY parked_ms DESC, type, name, address
