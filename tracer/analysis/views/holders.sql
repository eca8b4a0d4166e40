-- Who held others up: with what, how many and for how long, and where it was meanwhile
SELECT holder AS thread_name,
       pid,
       holder_tid AS tid,
       resource_type AS type,
       resource AS name,
       any_value(holder_how) AS how,
       count(*) AS parks,
       count(DISTINCT tid) AS waiters,
       least(sum(duration_ns), 9223372036854775807)::DOUBLE / 1e6 AS parked_ms,
       max(duration_ns)::DOUBLE / 1e6 AS longest_ms,
       arg_max(holder_does, duration_ns) AS does,
       arg_max(holder_place, duration_ns) AS place
FROM long_parks
WHERE holder_tid IS NOT NULL AND idle IS NOT TRUE
GROUP BY pid, holder_tid, holder, resource_type, resource
ORDER BY parked_ms DESC, tid, name
